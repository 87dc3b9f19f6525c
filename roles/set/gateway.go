package set

import (
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/pki"
)

// What a merchant checks of every answer of a gateway, whatever was asked (SET §7.4, §7.7).

// receiveFrom is receiveResponse, with an Error message taken as signed only if this gateway did.
func (e *Endpoint) receiveFrom(gatewayCert []byte, now time.Time, b []byte, rrpid RRPID, want MessageType) (*MessageWrapper, error) {
	w, err := e.receiveResponse(now, b, rrpid, want)
	var peer *PeerError
	if errors.As(err, &peer) && peer.Signer != nil && checkGateway(gatewayCert, peer.Signer) != nil {
		peer.Signer = nil
	}
	return w, err
}

// checkGateway tells whether who answers is the gateway of the key-exchange certificate that was asked.
func checkGateway(gatewayCert []byte, signer *pki.Certificate) error {
	exchange, err := pki.ParseCertificate(gatewayCert)
	if err != nil {
		return err
	}
	if string(exchange.X509.RawSubject) != string(signer.X509.RawSubject) {
		return &ProtocolError{Code: SignatureFailure, Err: errors.New("signed by another gateway")}
	}
	return nil
}

// checkTags tells whether an answer is to this request of this merchant (W-PU4).
func (e *Endpoint) checkTags(tags RRTags, rrpid RRPID) error {
	if tags.RRPID != rrpid {
		return &ProtocolError{Code: UnknownRRPID}
	}
	if string(tags.MerTermIDs.MerchantID) != e.SignCert.Merchant.MerchantID {
		return differs("the answer is to another merchant")
	}
	return nil
}

// differs tells that an answer does not fit the request.
func differs(format string, args ...any) error {
	return &ProtocolError{Code: WrapperMsgMismatch, Err: fmt.Errorf(format, args...)}
}
