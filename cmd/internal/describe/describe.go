package describe

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Describer describes what it is given. Certificates that it has met name who signed or may open
// something that it describes later.
type Describer struct {
	Key     crypto.Decrypter // opens what is encrypted for it; may be nil
	ShowPAN bool             // show card numbers, their expiry and account data

	known  map[string]*x509.Certificate // by issuer and serial number
	thumbs map[pki.Digest]*x509.Certificate
}

// walker is one description in the making.
type walker struct {
	*Describer
	size   int      // of the input
	within string   // name of the structure whose fields are described
	later  []func() // what waits until every certificate has been met
	err    error    // of the key's device
}

// Describe describes one thing in DER, or an initiation message. Whatever it is, it gives a Node; its
// error is of the device that holds the key.
func (d *Describer) Describe(b []byte) (*Node, error) {
	w := &walker{Describer: d, size: len(b)}
	for _, k := range kinds {
		if k.looks(b) {
			whole, missing := mended(b)
			n := k.describe(w, whole)
			if missing > 0 {
				n.add(fault(len(b), fmt.Sprintf("the input ends here, %d octets too early, after %s, the last that is whole", missing, lastPath(n))))
			}
			for _, f := range w.later {
				f()
			}
			return n, w.err
		}
	}
	return nil, errors.New("no kind describes it") // the last kind takes everything
}

// lastPath names the last thing in n, from the outside inwards.
func lastPath(n *Node) string {
	path := n.Name
	for len(n.Fields) > 0 && n.Fields[len(n.Fields)-1].Kind != Fault {
		n = n.Fields[len(n.Fields)-1]
		path += "/" + n.Name
	}
	return path
}

// know remembers a certificate.
func (d *Describer) know(c *x509.Certificate) {
	if d.known == nil {
		d.known = map[string]*x509.Certificate{}
		d.thumbs = map[pki.Digest]*x509.Certificate{}
	}
	d.known[certificateKey(cms.Identifier{Issuer: c.RawIssuer, SerialNumber: c.SerialNumber})] = c
	d.thumbs[sha256.Sum256(c.RawTBSCertificate)] = c
}

func certificateKey(id cms.Identifier) string { return string(id.Issuer) + id.SerialNumber.String() }

// party names the holder of the key that a CMS value names, once every certificate has been met.
func (w *walker) party(id cms.Identifier) *Party {
	p := &Party{Serial: serialOf(id.SerialNumber)}
	p.Issuer, _ = nameText(id.Issuer)
	if id.SerialNumber.Sign() == 0 {
		*p = Party{}
		return p
	}
	w.later = append(w.later, func() {
		if c := w.known[certificateKey(id)]; c != nil {
			p.Role = roleOf(c)
			p.Subject, _ = nameText(c.RawSubject)
		}
	})
	return p
}

// kind is something that can be described. To add one is to add a row: looks recognises it by its
// beginning, so that a malformed one is still described as what it was to be.
type kind struct {
	looks    func([]byte) bool
	describe func(*walker, []byte) *Node
}

var kinds = []kind{
	{looksMessage, func(w *walker, b []byte) *Node {
		var m set.MessageWrapper
		n := w.decode("MessageWrapper", b, &m)
		if t := m.Message.Type(); t != set.NoMessage {
			n.Value = t.String() + ", " + octets(w.size)
			n.Meaning = meaningOf("", t.String())
		}
		return n
	}},
	{looksCertificate, func(w *walker, b []byte) *Node { return orElements(w.certificate("Certificate", b, true), b) }},
	{looksCRL, func(w *walker, b []byte) *Node { return orElements(w.crl("CRL", b), b) }},
	{looksBCI, func(w *walker, b []byte) *Node { return orElements(w.bci("BrandCRLIdentifier", b), b) }},
	{looksBundle, func(w *walker, b []byte) *Node { return w.decode("WalletBundle", b, new(cms.ContentInfo)) }},
	{looksContentInfo, func(w *walker, b []byte) *Node { return w.decode("ContentInfo", b, new(cms.ContentInfo)) }},
	{looksInitiation, func(w *walker, b []byte) *Node { return w.initiation(b) }},
	{func([]byte) bool { return true }, func(_ *walker, b []byte) *Node {
		n := elements("unknown", b, 0)
		if n.Kind == Octets {
			n.add(fault(0, "neither a SET message, certificate, CRL or BrandCRLIdentifier, nor any ASN.1"))
		} else if e, err := readElement(b); err == nil && e.header+e.length < len(b) {
			n.add(fault(e.header+e.length, octets(len(b)-e.header-e.length)+" after the end"))
		}
		return n
	}},
}

func octets(n int) string {
	if n == 1 {
		return "1 octet"
	}
	return fmt.Sprintf("%d octets", n)
}

// orElements shows what is malformed by its ASN.1 alone.
func orElements(n *Node, b []byte) *Node {
	if n.Kind != Fault {
		return n
	}
	all := elements("malformed", b, 0)
	all.add(n)
	return all
}

// inside gives the beginnings of the elements in the first element of b.
func inside(b []byte) (all []element, bodies [][]byte) {
	e, err := readElement(b)
	if err != nil || !e.constructed {
		return nil, nil
	}
	for _, child := range children(e.contents(b)) {
		c, _ := readElement(child)
		all, bodies = append(all, c), append(bodies, child)
	}
	return all, bodies
}

// looksMessage: a sequence of a header, which starts with a version and has a GeneralizedTime, and [0].
func looksMessage(b []byte) bool {
	outer, bodies := inside(b)
	if len(outer) == 0 || !outer[0].is(asn1Sequence) || len(outer) > 1 && outer[1].class != context {
		return false
	}
	header, _ := inside(bodies[0])
	return len(header) > 1 && header[0].is(2) && (header[1].is(24) || len(header) > 2 && header[1].is(2) && header[2].is(24))
}

const asn1Sequence = 16

func looksCertificate(b []byte) bool {
	outer, bodies := inside(b)
	if len(outer) == 0 || !outer[0].is(asn1Sequence) {
		return false
	}
	tbs, _ := inside(bodies[0])
	return len(tbs) > 2 && tbs[0].class == context && tbs[0].number == 0 && tbs[1].is(2) && tbs[2].is(asn1Sequence)
}

func looksCRL(b []byte) bool {
	outer, bodies := inside(b)
	if len(outer) == 0 || !outer[0].is(asn1Sequence) {
		return false
	}
	tbs, _ := inside(bodies[0])
	return len(tbs) > 3 && tbs[0].is(2) && tbs[1].is(asn1Sequence) && tbs[2].is(asn1Sequence) && tbs[3].is(23, 24)
}

func looksBCI(b []byte) bool {
	outer, bodies := inside(b)
	if len(outer) == 0 || !outer[0].is(asn1Sequence) {
		return false
	}
	tbs, _ := inside(bodies[0])
	return len(tbs) > 3 && tbs[0].is(2) && tbs[1].is(2) && tbs[2].is(26, 30) && tbs[3].is(24)
}

// looksBundle: a ContentInfo that has the content type of wallet bundles near its beginning.
func looksBundle(b []byte) bool {
	id, err := der.Marshal(set.ContentWalletBundle)
	return err == nil && looksContentInfo(b) && bytes.Contains(b[:min(len(b), bundleHeadOctets)], id)
}

// bundleHeadOctets is where in a bundle the content type has ended, whatever its digest algorithms.
const bundleHeadOctets = 128

func looksContentInfo(b []byte) bool {
	outer, _ := inside(b)
	return len(outer) == 2 && outer[0].is(6) && outer[1].class == context && outer[1].number == 0
}

// Meet remembers the certificates in what will be described.
func (d *Describer) Meet(b []byte) {
	quiet := *d
	quiet.Key = nil
	quiet.Describe(b) // without a key there is no error
	d.known, d.thumbs = quiet.known, quiet.thumbs
}
