-- +goose Up

-- With a cardholder's certificate, HMAC under an HSM key of its lid_ca and the card number: a renewal must
-- be for the same card. Empty for all others.
ALTER TABLE certificate ADD COLUMN pan_mac BYTEA NOT NULL DEFAULT '';
CREATE INDEX certificate_thumbprint ON certificate (thumbprint);
CREATE INDEX certificate_lid_ca ON certificate (lid_ca);

-- One row for each CertReq whose signatures verify, for CertInqReq and for whoever approves; see
-- application.go for the states. Keys are SubjectPublicKeyInfos, or empty. sealed is encrypted for the CA's
-- key-exchange key: with what a cardholder's answer is made. card_end_s is zero but for cardholders.
CREATE TABLE application (
    ca           TEXT   NOT NULL,
    lid_ca       BYTEA  NOT NULL,
    lid_ee       BYTEA  NOT NULL,
    state        TEXT   NOT NULL,
    request_type BIGINT NOT NULL,
    registrant   TEXT   NOT NULL,
    bin          TEXT   NOT NULL,
    common_name  TEXT   NOT NULL,
    card_end_s   BIGINT NOT NULL,
    pan_mac      BYTEA  NOT NULL,
    renews       TEXT   NOT NULL,
    possessed    BYTEA  NOT NULL,
    sign_key     BYTEA  NOT NULL,
    exchange_key BYTEA  NOT NULL,
    sealed       BYTEA  NOT NULL,
    status       BIGINT NOT NULL,
    message      TEXT   NOT NULL,
    asked_s      BIGINT NOT NULL,
    decided_s    BIGINT NOT NULL,
    decided_by   TEXT   NOT NULL,
    expires_s    BIGINT NOT NULL,
    PRIMARY KEY (ca, lid_ca)
);
CREATE INDEX application_expires ON application (expires_s);

-- Certificates revoked, also those that a ceremony made; issuer is the key identifier of who issued them.
CREATE TABLE revocation (
    issuer      TEXT   NOT NULL,
    serial      TEXT   NOT NULL,
    certificate TEXT   NOT NULL,
    reason      TEXT   NOT NULL,
    at_s        BIGINT NOT NULL,
    not_after_s BIGINT NOT NULL,
    PRIMARY KEY (issuer, serial)
);

-- CRLs and BrandCRLIdentifiers, issued here or by a ceremony. issuer is the key identifier of the signer.
CREATE TABLE revocation_list (
    kind   TEXT   NOT NULL,
    issuer TEXT   NOT NULL,
    number BIGINT NOT NULL,
    list   BYTEA  NOT NULL,
    PRIMARY KEY (kind, issuer, number)
);

-- What operators did.
CREATE TABLE audit (
    number BIGINT NOT NULL PRIMARY KEY,
    at_s   BIGINT NOT NULL,
    who    TEXT   NOT NULL,
    action TEXT   NOT NULL,
    object TEXT   NOT NULL,
    detail TEXT   NOT NULL
);
