package set

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// A gateway's message to the cardholder passes the merchant under a key that the payment instructions
// brought to the gateway (SET §5.6).

var typesAcqCardMsg = cms.SignedEncrypted{TBE: ContentAcqCardCodeMsgTBE, TBS: ContentAcqCardCodeMsg}

// backKeyLabel sets the back key apart from whatever else is made of CardSecret.
const backKeyLabel = "acqBackKey"

// acqBackKey is the back key of a purchase. Made anew of CardSecret whenever it is needed, it need not be
// kept between PReq and the last inquiry.
func acqBackKey(xid XID, cardSecret Secret) (BackKey, error) {
	data, err := der.Marshal(xid)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, cardSecret[:])
	mac.Write([]byte(backKeyLabel))
	mac.Write(data)
	return mac.Sum(nil), nil
}

// offerBackKey puts the back key into the payment instructions, if the gateway's certificate says that it
// has messages for cardholders.
func (p *Purchase) offerBackKey(head *PIHead, gateway *pki.Certificate, account *Account) error {
	if !tunnels(gateway) {
		return nil
	}
	key, err := acqBackKey(p.TransIDs.XID, account.CardSecret)
	head.AcqBackKeyData = &BackKeyData{BackAlgID: cms.AlgorithmIdentifier{Algorithm: oidAES256GCM}, BackKey: key}
	return err
}

// tunnels tells whether a gateway passes messages under a back key, by the encryption that setkit knows.
func tunnels(gateway *pki.Certificate) bool {
	t := gateway.Tunneling
	return t != nil && t.Supported && (len(t.Algorithms) == 0 || slices.ContainsFunc(t.Algorithms, oidAES256GCM.Equal))
}

// usable gives the key if it is one for the encryption that setkit knows, else nil.
func (d *BackKeyData) usable() BackKey {
	if d == nil || !d.BackAlgID.Algorithm.Equal(oidAES256GCM) || len(d.BackKey) != backKeyOctets {
		return nil
	}
	return d.BackKey
}

// acqCardMsg is EncK(acqBackKeyData, P, AcqCardCodeMsg).
func (e *Endpoint) acqCardMsg(key BackKey, m AcqCardCodeMsg) (*AcqCardMsg, error) {
	ci, err := cms.EncBack(typesAcqCardMsg, m, e.ownCertificates(nil), nil, e.cmsSigner(), key)
	msg := AcqCardMsg(ci)
	return &msg, err
}

// OpenCardMessage opens what the purchase's gateway has to say to the cardholder, which a Results of PRes or
// InqRes carries. The merchant could not read it, nor change it.
func (p *Purchase) OpenCardMessage(e *Endpoint, now time.Time, account *Account, m *AcqCardMsg) (*AcqCardCodeMsg, error) {
	key, err := acqBackKey(p.TransIDs.XID, account.CardSecret)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	sd, err := cms.OpenEncBack(typesAcqCardMsg, cms.ContentInfo(*m), key)
	if err != nil {
		return nil, protocol(err)
	}
	msg, signer, _, err := openedSigned[AcqCardCodeMsg](e, now, sd, nil, pki.Pgwy)
	if err != nil {
		return nil, err
	}
	return &msg, checkGateway(p.GatewayCert, signer)
}

// errNoBackKey tells that the cardholder cannot be sent a message.
var errNoBackKey = errors.New("a message to the cardholder, who gave no key for one: ask CanMessage first")
