-- +goose Up

-- Certificates of gateways and CAs that merchants have sent, by the brand of the card. Merchants' own are not kept:
-- their thumbprints would tell one merchant of another.
CREATE TABLE certificate (
    brand  TEXT    NOT NULL,
    thumb  TEXT    NOT NULL,
    der    BLOB    NOT NULL,
    used_s INTEGER NOT NULL,
    PRIMARY KEY (brand, thumb)
);
