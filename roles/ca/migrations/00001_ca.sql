-- +goose Up

-- One row for each registration that was begun; see store.go for the states. ca is the path of the CA.
-- Nothing here tells whose card it is: pan_mac is an HMAC under an HSM key of lid_ca and card number,
-- empty for merchants and gateways. registrant names one of these, and is empty for a cardholder.
CREATE TABLE enrolment (
    ca           TEXT   NOT NULL,
    lid_ca       BYTEA  NOT NULL,
    lid_ee       BYTEA  NOT NULL,
    state        TEXT   NOT NULL,
    request_type BIGINT NOT NULL,
    chall_ca     BYTEA  NOT NULL,
    pan_mac      BYTEA  NOT NULL,
    registrant   TEXT   NOT NULL,
    status       BIGINT NOT NULL,
    expires_s    BIGINT NOT NULL,
    PRIMARY KEY (ca, lid_ca)
);
CREATE INDEX enrolment_expires ON enrolment (expires_s);

-- A CA certifies a key once, whatever for.
CREATE TABLE certified_key (
    ca          TEXT  NOT NULL,
    spki_sha256 BYTEA NOT NULL,
    serial      TEXT  NOT NULL,
    PRIMARY KEY (ca, spki_sha256)
);

CREATE TABLE certificate (
    ca           TEXT   NOT NULL,
    serial       TEXT   NOT NULL,
    lid_ca       BYTEA  NOT NULL,
    holder       TEXT   NOT NULL,
    key_use      TEXT   NOT NULL,
    subject      TEXT   NOT NULL,
    registrant   TEXT   NOT NULL,
    thumbprint   BYTEA  NOT NULL,
    not_before_s BIGINT NOT NULL,
    not_after_s  BIGINT NOT NULL,
    issued_s     BIGINT NOT NULL,
    certificate  BYTEA  NOT NULL,
    PRIMARY KEY (ca, serial)
);
CREATE INDEX certificate_issued ON certificate (issued_s);

-- What became of a registration code: how often a wrong one was given instead, and whether it was used.
CREATE TABLE registration_code (
    registrant  TEXT   NOT NULL,
    code_sha256 BYTEA  NOT NULL,
    failures    BIGINT NOT NULL,
    used        BIGINT NOT NULL,
    PRIMARY KEY (registrant, code_sha256)
);
