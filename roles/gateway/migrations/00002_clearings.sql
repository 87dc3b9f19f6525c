-- +goose Up

-- What names the clearing of a capture, so that it can be sent again as the same; empty before the capture.
ALTER TABLE auth ADD COLUMN clear_stan TEXT NOT NULL DEFAULT '';
ALTER TABLE auth ADD COLUMN clear_transmission TEXT NOT NULL DEFAULT '';
