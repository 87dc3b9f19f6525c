package describe

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"reflect"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// contentInfo describes a CMS value: who signed it or for whom it is encrypted, and what is in it.
func (w *walker) contentInfo(name string, t reflect.Type, ci cms.ContentInfo) *Node {
	n := &Node{Name: name, Kind: Structure, Type: typeName(t)}
	if t == contentInfoType || n.Type == name {
		n.Type = ""
	}
	n.add(w.value("ContentType", reflect.ValueOf(ci.ContentType), nil))
	in, err := cms.Inspect(ci)
	if in == nil {
		n.add(w.raw("Content", ci.Content))
		return n
	}
	if named := oidName(in.ContentType); named != "" {
		if n.Type != "" {
			n.Type += ": "
		}
		n.Type += named
	}
	var broken *fracture
	structure := reflect.ValueOf(in.Structure)
	if e, ok := errors.AsType[*der.Error](err); ok {
		broken = fractureAt(e, structure.Type().Name())
	}
	body := w.structure("Content", structure, broken)
	n.add(body)
	switch {
	case err != nil:
		if broken.here() {
			body.add(broken.node())
		}
	case len(in.Signers) > 0:
		n.Kind = Signed
		w.signed(n, in, ci)
	case in.Recipient != nil || oidName(ci.ContentType) == "authEnvelopedData":
		n.Kind = Encrypted
		w.encrypted(n, in, ci)
	}
	return n
}

// signed tells who signed, and notes what must be known to try the signatures later.
func (w *walker) signed(n *Node, in *cms.Inspected, ci cms.ContentInfo) {
	for i, id := range in.Signers {
		p := w.party(id)
		n.Signers = append(n.Signers, p)
		if in.Content == nil {
			p.Checked = "signs what does not stand here: not tried"
			continue
		}
		w.later = append(w.later, func() { p.Checked = w.try(ci, in.ContentType, i, id) })
	}
}

// try verifies one signature under the certificate that it names.
func (w *walker) try(ci cms.ContentInfo, contentType asn1.ObjectIdentifier, i int, id cms.Identifier) string {
	sd, err := cms.ParseSigned(ci, contentType)
	if err != nil {
		return "not tried: " + err.Error()
	}
	cert := w.known[certificateKey(id)]
	if cert == nil {
		return "not tried: its certificate is not here"
	}
	if err := sd.Verify(i, cert.PublicKey); err != nil {
		return "DOES NOT VERIFY under that certificate"
	}
	return "verifies under that certificate"
}

func (w *walker) encrypted(n *Node, in *cms.Inspected, ci cms.ContentInfo) {
	if in.Recipient == nil {
		n.Recipient = &Party{BackKey: true}
		return
	}
	n.Recipient = w.party(*in.Recipient)
	if w.Key == nil || w.err != nil {
		return
	}
	to := cms.Recipient{Key: w.Key, Certificate: &x509.Certificate{RawIssuer: in.Recipient.Issuer, SerialNumber: in.Recipient.SerialNumber}}
	for _, bc := range set.Blocks(in.ContentType) {
		plaintext, packed, err := to.Decrypt(ci, in.ContentType, bc)
		if errors.Is(err, cms.ErrDecrypt) {
			continue
		}
		if err != nil && !errors.Is(err, cms.ErrMalformed) && !errors.Is(err, cms.ErrDigest) {
			w.err = err // the device is away
			return
		}
		n.Opened = err == nil
		if err != nil {
			n.add(fault(-1, err.Error()))
			return
		}
		opened := w.content("opened", in.ContentType, plaintext)
		opened.Meaning = "what the key has opened"
		n.add(opened, w.extra(bc, packed))
		clear(plaintext)
		clear(packed)
		return
	}
}

// extra describes what stood beside the key in the RSA block.
func (w *walker) extra(bc cms.BlockContents, packed []byte) *Node {
	v, err := set.UnpackExtra(bc, packed)
	if err != nil {
		n := &Node{Name: "extra data", Kind: Structure}
		n.add(fault(-1, err.Error()))
		return n
	}
	if v == nil {
		return nil
	}
	defer wipe(v)
	n := w.value("extra data", reflect.ValueOf(v), nil)
	n.Meaning = "from the RSA block, beside the content key"
	return n
}

// content describes octets that are typed by a content type.
func (w *walker) content(name string, contentType asn1.ObjectIdentifier, octets []byte) *Node {
	v := set.NewContent(contentType)
	if contentType.Equal(set.ContentWalletBundle) {
		v = new(bundle.Bundle)
	}
	if v != nil {
		n := w.decode(name, octets, v)
		if n.Type == "" || n.Type == "ContentInfo" {
			n.Type = oidName(contentType)
		}
		return n
	}
	n := elements(name, octets, 0)
	if named := oidName(contentType); named != "" {
		n.Type = named
	}
	return n
}

func detachedDigest(name string, d cms.DetachedDigest) *Node {
	return &Node{
		Name: name, Kind: Octets, Type: "DD(" + orDotted(d.Content.EncapContentInfo.EContentType) + ")", Octets: d.Content.Digest,
		Value: orDotted(d.Content.DigestAlgorithm.Algorithm), Meaning: "digest of what stands elsewhere",
	}
}

func orDotted(id asn1.ObjectIdentifier) string {
	if name := oidName(id); name != "" {
		return name
	}
	return id.String()
}

func algorithm(name string, a cms.AlgorithmIdentifier) *Node {
	n := value(name, "%s", oidText(a.Algorithm))
	if len(a.Parameters) > 0 && !bytes.Equal(a.Parameters, asn1.NullBytes) {
		n.add(elements("Parameters", a.Parameters, 0))
	}
	return n
}

// thumb names a certificate by its thumbprint, and by more when the certificate is here.
func (w *walker) thumb(name string, t pki.CertThumb) *Node {
	n := &Node{
		Name: name, Kind: Octets, Type: "CertThumb", Octets: t.Thumbprint[:], Value: orDotted(t.DigestAlgorithm.Algorithm),
	}
	w.later = append(w.later, func() {
		if c := w.thumbs[t.Thumbprint]; c != nil {
			n.Value += " of " + roleOf(c) + " certificate " + serialOf(c.SerialNumber)
		}
	})
	return n
}

// extension describes one extension of a message.
func (w *walker) extension(x set.MsgExtension) *Node {
	n := &Node{Name: "extension", Kind: Structure, Type: "MsgExtension"}
	n.add(value("ID", "%s", oidText(x.ID)), value("Critical", "%s", yes(x.Critical)))
	var thumb pki.CertThumb
	if x.ID.Equal(set.ExtPEThumb) && der.Unmarshal(x.Value, &thumb) == nil {
		n.add(w.thumb("Value", thumb))
	} else {
		n.add(elements("Value", x.Value, 0))
	}
	return n
}

// raw describes an element that roles/set takes as it stands, by the name of its field.
func (w *walker) raw(name string, b der.Raw) *Node {
	kind := name
	if i := bytes.IndexByte([]byte(name), ' '); i > 0 {
		kind = name[:i]
	}
	switch kind {
	case "BrandCRLIdentifier":
		if n := w.bci(name, b); n.Kind != Fault {
			return n
		}
	case "Certificates", "Root":
		if n := w.certificate(name, b, false); n.Kind != Fault {
			return n
		}
	case "CRLs":
		if n := w.crl(name, b); n.Kind != Fault {
			return n
		}
	case "PublicKeyS", "PublicKeyE":
		if pub, err := x509.ParsePKIXPublicKey(b); err == nil {
			n := value(name, "%s", keyText(pub))
			n.add(elements("SubjectPublicKeyInfo", b, 0))
			return n
		}
	case "Issuer":
		if text, ok := nameText(b); ok {
			return value(name, "%s", text)
		}
	}
	return elements(name, b, 0)
}
