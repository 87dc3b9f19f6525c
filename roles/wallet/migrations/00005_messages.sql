-- +goose Up

-- The octets of what wallet and merchant said to each other about a purchase, of each kind of message the last.
-- No card number is in them in clear. place is that in the course of a purchase: 1 the shop's initiation message,
-- 2 PInitReq, 3 PInitRes, 4 PReq, which is sent again if need be, 5 PRes, 6 InqReq, 7 InqRes.
CREATE TABLE message (
    xid    TEXT   NOT NULL REFERENCES purchase (xid),
    place  BIGINT NOT NULL,
    octets BYTEA  NOT NULL,
    at_ms  BIGINT NOT NULL,
    PRIMARY KEY (xid, place)
);
INSERT INTO message (xid, place, octets, at_ms) SELECT xid, 4, preq, sent_s * 1000 FROM purchase WHERE length(preq) > 0;
INSERT INTO message (xid, place, octets, at_ms) SELECT xid, 5, result, answered_s * 1000 FROM purchase WHERE length(result) > 0;
ALTER TABLE purchase DROP COLUMN preq;
ALTER TABLE purchase DROP COLUMN result;
