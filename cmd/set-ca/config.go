package main

import (
	"context"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/ca"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// config is the configuration file. testdata/config/ca.yaml is a full example.
type config struct {
	Listen     string       `yaml:"listen"`
	Metrics    string       `yaml:"metrics"`
	Database   string       `yaml:"database"`
	Issuer     string       `yaml:"issuer"`
	Network    set.BIN      `yaml:"network-id"`
	PANMACKey  string       `yaml:"pan-mac-key"`
	Trust      party.Trust  `yaml:"trust"`
	Chain      []string     `yaml:"chain"`
	Cardholder cardholderCA `yaml:"cardholder-ca"`
	Merchant   merchantCA   `yaml:"merchant-ca"`
	Payment    paymentCA    `yaml:"payment-ca"`
	Signers    []listSigner `yaml:"list-signers"`
}

// listSigner is a CA that signs revocation lists. Its key need not be at hand but when it does.
type listSigner struct {
	Name         string `yaml:"name"`
	keyed        `yaml:",inline"`
	ValidityDays int `yaml:"validity-days"`
}

// authority is what the three CAs have in common.
type authority struct {
	CertSign     keyed    `yaml:"cert-sign"`
	Sign         keyed    `yaml:"sign"`
	Exchange     keyed    `yaml:"key-exchange"`
	ValidityDays int      `yaml:"validity-days"`
	Approval     string   `yaml:"approval"` // automatic, or by-hand
	Form         form     `yaml:"form"`
	Referral     referral `yaml:"referral"`
}

// keyed is a key with its certificate.
type keyed struct {
	Key         string `yaml:"key"`         // PKCS#11 URI
	Certificate string `yaml:"certificate"` // PEM file
}

type form struct {
	ID     set.Natural    `yaml:"id"`
	Policy set.PolicyText `yaml:"policy"`
	Fields []field        `yaml:"fields"`
}

type field struct {
	Name        set.Text128  `yaml:"name"`
	Description set.Text200  `yaml:"description"`
	MaxChars    set.FieldLen `yaml:"max-chars"`
	Invisible   bool         `yaml:"invisible"`
}

type referral struct {
	Reason set.Text512 `yaml:"reason"`
	URLs   []set.URL   `yaml:"urls"`
}

type cardholderCA struct {
	authority `yaml:",inline"`
	Programs  []program `yaml:"programs"`
}

type program struct {
	BINs     []set.BIN   `yaml:"bins"`
	Country  string      `yaml:"country"`
	Issuer   string      `yaml:"issuer"`
	CardName string      `yaml:"card-name"`
	Message  set.Text128 `yaml:"message"`
}

type acquirer struct {
	BIN     set.BIN `yaml:"bin"`
	Country string  `yaml:"country"`
	Name    string  `yaml:"name"`
}

type merchantCA struct {
	authority `yaml:",inline"`
	Merchants []merchant `yaml:"merchants"`
}

type merchant struct {
	ID             set.MerchantID `yaml:"id"`
	Name           string         `yaml:"name"`
	Acquirer       acquirer       `yaml:"acquirer"`
	Country        int            `yaml:"country"`
	Names          []names        `yaml:"names"`
	MaySeePANs     bool           `yaml:"may-see-card-numbers"`
	RegistrantCode string         `yaml:"registration-code"`
}

type names struct {
	Language      string `yaml:"language"`
	Name          string `yaml:"name"`
	City          string `yaml:"city"`
	StateProvince string `yaml:"state-province"`
	PostalCode    string `yaml:"postal-code"`
	CountryName   string `yaml:"country-name"`
}

type paymentCA struct {
	authority `yaml:",inline"`
	Gateways  []gateway `yaml:"gateways"`
}

type gateway struct {
	ID               string                 `yaml:"id"`
	Acquirer         acquirer               `yaml:"acquirer"`
	BusinessID       set.AcquirerBusinessID `yaml:"business-id"`
	CardCertRequired bool                   `yaml:"card-certificate-required"`
	Tunneling        []string               `yaml:"tunneling"`
	RegistrantCode   string                 `yaml:"registration-code"`
}

// tunnelingAlgorithms are the encryptions that a gateway can pass on to a cardholder.
var tunnelingAlgorithms = map[string]asn1.ObjectIdentifier{"aes-256-gcm": {2, 16, 840, 1, 101, 3, 4, 1, 46}}

// Ways in which requests are approved.
const (
	approvalAutomatic = "automatic"
	approvalByHand    = "by-hand"
)

// load reads the configuration that the command line names.
func load(c *urfave.Context) (*config, error) {
	if c.Args().Present() {
		return nil, cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	return loadFile(c)
}

// loadWith is load for a command with one argument.
func loadWith(c *urfave.Context, what string) (*config, string, error) {
	if c.NArg() != 1 {
		return nil, "", cli.Usage(fmt.Errorf("%d arguments: want one, %s, after the flags", c.NArg(), what))
	}
	cfg, err := loadFile(c)
	return cfg, c.Args().First(), err
}

func loadFile(c *urfave.Context) (*config, error) {
	var cfg config
	if err := cli.LoadConfig(c.Path("config"), &cfg); err != nil {
		return nil, cli.Usage(err)
	}
	for key, value := range map[string]string{
		"listen": cfg.Listen, "database": cfg.Database, "issuer": cfg.Issuer, "pan-mac-key": cfg.PANMACKey, "trust.root": cfg.Trust.Root,
	} {
		if value == "" {
			return nil, cli.Usage(fmt.Errorf("configuration %s: %s is missing", c.Path("config"), key))
		}
	}
	return &cfg, nil
}

// opener makes the parts of a CA from their configuration.
type opener struct {
	ctx      context.Context
	ring     *keyring.Ring
	stdin    io.Reader
	stderr   io.Writer
	verifier *pki.Verifier
	chain    []*pki.Certificate
}

// open opens keys and database.
func (cfg *config) open(c *urfave.Context, ring *keyring.Ring, issuer *finnet.Client, log *slog.Logger) (*ca.CA, func() error, error) {
	o := &opener{ctx: c.Context, ring: ring, stdin: c.App.Reader, stderr: c.App.ErrWriter}
	config, err := o.config(cfg)
	if err != nil {
		return nil, nil, err
	}
	if config.DB, err = ca.OpenDB(c.Context, cfg.Database); err != nil {
		return nil, nil, err
	}
	config.Issuer, config.Log = issuer, log
	server, err := ca.New(*config)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("configuration %s: %w", c.Path("config"), err), config.DB.Close())
	}
	return server, config.DB.Close, nil
}

func (o *opener) config(cfg *config) (out *ca.Config, err error) {
	if o.verifier, err = cfg.Trust.Verifier(); err != nil {
		return nil, err
	}
	for _, path := range cfg.Chain {
		certs, err := party.ReadCertificates(path)
		if err != nil {
			return nil, err
		}
		o.chain = append(o.chain, certs...)
	}
	out = new(ca.Config)
	if out.PANMAC, err = o.ring.MAC(o.ctx, cfg.PANMACKey); err != nil {
		return nil, err
	}
	if out.Cardholder, err = o.cardholder(&cfg.Cardholder, cfg.Network); err != nil {
		return nil, fmt.Errorf("cardholder-ca: %w", err)
	}
	if out.Merchant, err = o.merchant(&cfg.Merchant); err != nil {
		return nil, fmt.Errorf("merchant-ca: %w", err)
	}
	if out.Payment, err = o.payment(&cfg.Payment); err != nil {
		return nil, fmt.Errorf("payment-ca: %w", err)
	}
	return out, nil
}

func (o *opener) authority(a *authority) (out ca.Authority, err error) {
	switch a.Approval {
	case "", approvalAutomatic:
	case approvalByHand:
		out.ByHand = true
	default:
		return out, fmt.Errorf("approval %q: want %s or %s", a.Approval, approvalAutomatic, approvalByHand)
	}
	e := &set.Endpoint{Chain: o.chain, Verifier: o.verifier, Software: party.Software}
	out.Endpoint, out.Validity = e, time.Duration(a.ValidityDays)*24*time.Hour
	for _, c := range []struct {
		path string
		into **pki.Certificate
	}{{a.CertSign.Certificate, &out.Certificate}, {a.Sign.Certificate, &e.SignCert}, {a.Exchange.Certificate, &e.ExchangeCert}} {
		if *c.into, err = readOne(c.path); err != nil {
			return out, err
		}
	}
	if out.Key, err = o.ring.Signer(o.ctx, a.CertSign.Key); err != nil {
		return out, err
	}
	if e.SignKey, err = o.ring.Signer(o.ctx, a.Sign.Key); err != nil {
		return out, err
	}
	e.ExchangeKey, err = o.ring.Decrypter(o.ctx, a.Exchange.Key)
	return out, err
}

// readOne reads the one certificate of a PEM file.
func readOne(path string) (*pki.Certificate, error) {
	certs, err := party.ReadCertificates(path)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%s: %d certificates, want one", path, len(certs))
	}
	return certs[0], nil
}

// fields makes a form; ids say what its fields mean.
func (f form) fields(ids ...asn1.ObjectIdentifier) ca.Form {
	out := ca.Form{ID: f.ID, Policy: f.Policy}
	for i, from := range f.Fields {
		to := set.RegField{
			FieldName: []set.Text128{from.Name}, FieldDesc: from.Description, FieldLen: from.MaxChars,
			FieldRequired: true, FieldInvisible: from.Invisible,
		}
		if i < len(ids) {
			to.FieldID = ids[i]
		}
		out.Fields = append(out.Fields, to)
	}
	return out
}

func (r referral) referral() ca.Referral { return ca.Referral{Reason: r.Reason, URLs: r.URLs} }

func (o *opener) cardholder(cfg *cardholderCA, network set.BIN) (out ca.CardholderCA, err error) {
	if out.Authority, err = o.authority(&cfg.authority); err != nil {
		return out, err
	}
	out.Form, out.Referral, out.Network = cfg.Form.fields(set.FieldFullName, set.FieldPassPhrase), cfg.Referral.referral(), network
	for _, p := range cfg.Programs {
		program := ca.CardProgram{BINs: p.BINs, Country: p.Country, Issuer: p.Issuer, CardName: p.CardName}
		if p.Message != "" {
			program.Message = &set.CAMsg{CardholderMsg: p.Message}
		}
		out.Programs = append(out.Programs, program)
	}
	return out, nil
}

func (o *opener) merchant(cfg *merchantCA) (out ca.MerchantCA, err error) {
	if out.Authority, err = o.authority(&cfg.authority); err != nil {
		return out, err
	}
	out.Form, out.Referral = cfg.Form.fields(set.FieldPassPhrase), cfg.Referral.referral()
	for _, m := range cfg.Merchants {
		merchant := ca.Merchant{Acquirer: ca.Acquirer(m.Acquirer), ID: m.ID, Name: m.Name, Country: m.Country, AuthFlag: m.MaySeePANs}
		for _, n := range m.Names {
			merchant.Names = append(merchant.Names, pki.MerchantNames(n))
		}
		if merchant.Code, err = o.code(m.RegistrantCode, "merchant "+string(m.ID)); err != nil {
			return out, err
		}
		out.Merchants = append(out.Merchants, merchant)
	}
	return out, nil
}

func (o *opener) payment(cfg *paymentCA) (out ca.PaymentCA, err error) {
	if out.Authority, err = o.authority(&cfg.authority); err != nil {
		return out, err
	}
	out.Form, out.Referral = cfg.Form.fields(set.FieldPassPhrase), cfg.Referral.referral()
	for _, g := range cfg.Gateways {
		gateway := ca.Gateway{Acquirer: ca.Acquirer(g.Acquirer), BusinessID: g.BusinessID, ID: g.ID, CardCertRequired: g.CardCertRequired}
		for _, name := range g.Tunneling {
			id, ok := tunnelingAlgorithms[name]
			if !ok {
				return out, fmt.Errorf("gateway %s: tunneling %q: want aes-256-gcm", g.ID, name)
			}
			gateway.Tunneling = append(gateway.Tunneling, id)
		}
		if gateway.Code, err = o.code(g.RegistrantCode, "gateway "+g.ID); err != nil {
			return out, err
		}
		out.Gateways = append(out.Gateways, gateway)
	}
	return out, nil
}

func (o *opener) code(source, of string) (ca.RegistrationCode, error) {
	text, err := cli.Secret(o.ctx, source, "registration code of "+of, o.stdin, o.stderr)
	if err != nil {
		return ca.RegistrationCode{}, fmt.Errorf("%s: %w", of, err)
	}
	defer clear(text)
	code, err := ca.NewRegistrationCode(text)
	if err != nil {
		return code, fmt.Errorf("%s: %w", of, err)
	}
	return code, nil
}
