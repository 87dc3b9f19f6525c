// Package iso7816 encodes and decodes what travels between a terminal and a
// smart card: command and response APDUs (ISO/IEC 7816-4 section 5), BER-TLV
// data objects and answers to reset. It does no I/O.
//
// Decoding is strict: an APDU has to be one of the seven forms of the standard
// to the byte, and a TLV has to end where its container ends. Two freedoms that
// real cards use are left: a TLV length may have more octets than it needs, and
// a card may answer 61xx to any command, 6Cxx to any without a body (see
// [Exchange]).
package iso7816
