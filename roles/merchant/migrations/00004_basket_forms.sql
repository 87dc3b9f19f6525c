-- +goose Up

-- SHA-256 of the form that has last put something into the basket, '' before there was one.
ALTER TABLE shop_session ADD COLUMN last_form TEXT NOT NULL DEFAULT '';
