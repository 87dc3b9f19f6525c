-- +goose Up

-- How the cardholder is known, a set.Cardholder; empty for authorizations of before.
ALTER TABLE auth ADD COLUMN cardholder TEXT NOT NULL DEFAULT '';
