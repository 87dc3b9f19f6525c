package describe

// explained adds to a node what its field or message is for.
func (w *walker) explained(n *Node) *Node {
	if n != nil && n.Meaning == "" && n.Kind != Fault {
		n.Meaning = meaningOf(w.within, n.Name)
	}
	return n
}

// meaningOf prefers what a field means in its own structure to what its name means everywhere.
func meaningOf(structure, name string) string {
	if m, ok := meanings[structure+"."+name]; ok {
		return m
	}
	return meanings[name]
}

// meanings say what messages and fields are for, by SET's names. What is not here needs no words, or is
// new: it is shown all the same.
var meanings = map[string]string{
	// Messages (SET §2.2)
	"PInitReq": "the cardholder asks for a purchase's identifiers and certificates", "PInitRes": "the merchant gives them, signed",
	"PReq": "the order for the merchant and the payment instruction for the gateway", "PRes": "the merchant tells how far the purchase has come",
	"InqReq": "the cardholder asks how far a purchase has come", "InqRes": "the merchant tells it",
	"AuthReq": "the merchant asks the gateway to authorize a payment", "AuthRes": "the gateway tells what the issuer decided",
	"AuthRevReq": "the merchant takes back or lowers an authorization", "AuthRevRes": "the gateway tells what became of that",
	"CapReq": "the merchant asks for the money of authorizations", "CapRes": "the gateway tells what became of each",
	"CapRevReq": "the merchant takes back captures", "CapRevRes": "the gateway tells what became of each",
	"CredReq": "the merchant gives money back", "CredRes": "the gateway tells what became of each credit",
	"CredRevReq": "the merchant takes back credits", "CredRevRes": "the gateway tells what became of each",
	"PCertReq": "the merchant asks for the gateway's certificates", "PCertRes": "the gateway gives them",
	"BatchAdminReq": "the merchant opens, closes or asks about a batch", "BatchAdminRes": "the gateway tells the batch's state",
	"CardCInitReq": "the cardholder starts to register", "CardCInitRes": "the CA gives its key",
	"Me-AqCInitReq": "a merchant or gateway starts to register", "Me-AqCInitRes": "the CA gives its form and key",
	"RegFormReq": "the cardholder asks for the form of a card", "RegFormRes": "the CA gives the form, or says who may",
	"CertReq": "asks for certificates, with the form filled in", "CertRes": "the CA gives certificates, or says why not",
	"CertInqReq": "asks what became of a request", "CertInqRes": "the CA tells it", "Error": "the message cannot be processed",

	// Wrapper (SET §2.1)
	"MessageHeader": "in the clear and not signed", "Version": "version of the syntax", "Revision": "revision of the version",
	"Date": "when it was made", "MessageIDs": "the transaction, as far as the sender knows it", "LID-C": "the cardholder's number of the transaction",
	"LID-M": "the merchant's number of the transaction", "XID": "the purchase, everywhere", "RRPID": "pairs a request with its response",
	"SWIdent": "the sender's software", "Message": "one message of those that SET has", "MWExtensions": "extensions of the wrapper",
	"Extensions": "extensions", "MessageHeader.Date": "when the message was made", "SWIdentifier": "the sender's software",

	// Identifiers (SET §2.6)
	"TransIDs": "the purchase, as every party names it", "PReqDate": "when the purchase was begun", "PaySysID": "the card network's number of the transaction",
	"Language": "in which the cardholder is spoken to", "RRTags": "the request, as the merchant names it", "AuthRRTags": "the request, as the merchant names it",
	"CapRRTags": "the request, as the merchant names it", "MerTermIDs": "which merchant and terminal", "MerchantID": "the merchant's number at its acquirer",
	"TerminalID": "the merchant's terminal", "AgentNum": "the merchant's agent", "ChainNum": "the merchant's chain", "StoreNum": "the merchant's store",
	"CurrentDate": "the merchant's clock", "LID-EE": "the requester's number of the registration", "LID-CA": "the CA's number of the registration",
	"Chall-C": "the response must repeat it: proof that it is fresh", "Chall-M": "PReq must repeat it: proof that it is fresh",
	"ChallC2": "the response must repeat it", "Chall-EE": "the response must repeat it", "Chall-EE2": "the response must repeat it",
	"Chall-EE3": "the response must repeat it", "Chall-CA": "the request must repeat it: proof that it is fresh",
	"BrandID": "the card's brand", "BIN": "first six digits of the card number: the issuer",
	"Thumbs": "certificates and lists that the sender has and need not be sent", "MThumbs": "what the merchant has and need not be sent",
	"CertThumbs": "thumbprints of certificates", "CRLThumbs": "thumbprints of CRLs", "BrandCRLIDThumbs": "thumbprints of BrandCRLIdentifiers",
	"BrandCRLIdentifier": "which CRLs of the brand are current, signed by the brand CA",
	"PEThumb":            "the gateway's key-exchange certificate, for which to encrypt", "CAEThumb": "the CA's key-exchange certificate, for which to encrypt",
	"EEThumb": "the certificate to renew",

	// Purchase (SET §5.1 to 5.4)
	"PReqDualSigned": "of a cardholder with a certificate", "PReqUnsigned": "of a cardholder without a certificate",
	"PIDualSigned": "payment instruction: only the gateway can open it", "PISignature": "the cardholder's dual signature, over the digests of payment and order",
	"EXPIData": "the payment instruction, encrypted for the gateway", "OIDualSigned": "order information, for the merchant, with the digest of the payment",
	"OIUnsigned": "order information, for the merchant", "PIUnsigned": "payment instruction without signature: only the gateway can open it",
	"OIData": "order information: what the merchant is to deliver", "PIData": "payment instruction with the account",
	"PI-OILink": "payment instruction with the digest of the order", "PIHead": "payment instruction without the account",
	"HOD": "digest of the order description, which both sides have", "HOD2": "digest of the order, as the merchant knows it",
	"HPIData": "digest of the payment instruction", "HOIData": "digest of the order information", "DD": "digest of what stands elsewhere, which links the two",
	"ODSalt": "keeps the order from being guessed by its digest", "ODExtOIDs": "extensions of the order description", "PurchAmt": "amount of the purchase",
	"Inputs": "what the instruction says of the order", "TransStain": "proof that the cardholder knows the card's secret", "AcqBackKeyData": "key for a message back to the cardholder",
	"InstallRecurData": "instalments or recurring payments", "InstallTotalTrans": "the most payments allowed", "Recurring": "payments that recur",
	"RecurringFrequency": "least days between payments", "RecurringExpiry": "no payment after this",
	"PAN": "card number", "CardExpiry": "when the card expires", "PANSecret": "shared by cardholder and issuer's CA", "CardSecret": "the cardholder's half of PANSecret",
	"ExNonce": "keeps the account from being guessed by its digest", "PANData": "the account, with its secret", "PANToken": "the account, without a secret",
	"OD": "order description, as the shop gave it", "PI": "payment instruction, as the cardholder sent it: the merchant cannot open it",
	"PResPayloadSeq": "one for each authorization", "CompletionCode": "how far the purchase has come", "Results": "what became of the payment",
	"AuthStatus": "the authorization", "AuthDate": "when it was authorized", "AuthRatio": "share of the purchase's amount", "CapStatus": "the capture",
	"CapDate": "when the cardholder is debited", "CapRatio": "share of the purchase's amount", "CredStatusSeq": "credits made and not taken back",
	"CreditDate": "when it was credited", "CreditCode": "result of the credit", "CreditRatio": "share of the purchase's amount", "CurrConv": "conversion into the card's currency",
	"CurrConvRate": "rate of conversion", "CardCurr": "the card's currency", "AcqCardMsg": "from the gateway to the cardholder: the merchant cannot open it",
	"InqReqSigned": "signed, as the purchase was", "InqReqUnsigned": "unsigned, as the purchase was",

	// Authorization (SET §5.5)
	"Enc": "encrypted, and signed inside", "EncX": "encrypted, and signed inside, with an account beside the key", "EncB": "encrypted and signed, with baggage",
	"EncBX": "encrypted and signed, with baggage and an account", "EncK": "encrypted under the key that the recipient had sent", "Baggage": "already encrypted for somebody; goes along",
	"AuthReqItem": "the authorization asked for", "AuthTags": "which request and purchase", "AuthRetNum": "the card network's retrieval number",
	"CheckDigests": "the merchant's digests of the order, for the gateway to compare", "AuthReqPayload": "what is asked for", "CaptureNow": "authorize and capture at once",
	"SubsequentAuthInd": "more authorizations will follow", "AuthReqAmt": "amount asked for", "AVSData": "the cardholder's address, to be verified",
	"StreetAddress": "street and number", "SpecialProcessing": "special treatment", "CardSuspect": "the merchant mistrusts the card",
	"RequestCardTypeInd": "the merchant wants to know the kind of card", "MarketSpecAuthData": "data of one trade", "MerchData": "the merchant's trade",
	"MerchCatCode": "merchant category, ISO 18245", "MerchGroup": "the trade", "AuthResPayload": "what became of it", "AuthHeader": "the result",
	"AuthAmt": "amount authorized", "AuthCode": "result of the authorization", "ResponseData": "what the issuer said", "AuthValCodes": "codes of the issuer",
	"ApprovalCode": "the issuer's code of approval", "AuthCharInd": "character of the authorization", "ValidationCode": "the card network's code",
	"MarketSpec": "which trade's data qualified", "RespReason": "who decided, and why", "CardType": "kind of card", "AVSResult": "result of address verification",
	"LogRefID": "the card network's reference", "CapToken": "what the gateway needs to capture: the merchant keeps it and cannot open it",
	"AuthToken": "stands for the payment instruction in later authorizations", "BatchStatus": "the batch that it went into",

	// Capture and credit (SET §5.6 to 5.12)
	"CapItemSeq": "one for each authorization", "CapPayload": "what is to be captured", "CapReqAmt": "amount to capture", "AuthRRPID": "the authorization's request",
	"CapResItemSeq": "one for each item of the request", "CapResPayload": "what became of it", "CapCode": "result of the capture", "CapAmt": "amount captured",
	"BatchID": "number of the batch", "BatchSequenceNum": "number in the batch", "TokenOpaque": "the gateway's own", "AuthTokenOpaque": "the gateway's own",
	"SaleDetail": "more about the sale", "AuthReqItem.AuthTags": "which request and purchase", "BatchStatusSeq": "batches and their totals",
	"TotalAuthAmount": "of all authorizations so far", "PrevAuthDateTime": "of the last authorization", "RecurringCount": "authorizations so far",
	"OpenDateTime": "when the batch was opened", "ClosedWhen": "who closed it and when", "BatchDetails": "totals of the batch",
	"AcqCardCode": "kind of message", "AcqCardText": "to be shown to the cardholder", "AcqCardURL": "where to read more", "AcqCardPhone": "where to call",

	// Registration (SET §4)
	"RequestType": "who asks for which certificates", "IDData": "which merchant or gateway asks", "RegFormOrReferral": "a form, or where else to go",
	"RegFormData": "form and policy", "RegTemplate": "the form", "RegFormID": "the CA's number of the form", "RegFieldSeq": "fields of the form",
	"FieldID": "what is asked for", "FieldName": "as it is shown", "FieldDesc": "explains the field", "FieldLen": "most characters", "FieldRequired": "must be answered",
	"FieldInvisible": "the answer is not shown while it is typed", "Policy": "what the requester must accept", "ReferralData": "why not here", "RegForm": "the form, filled in",
	"FieldValue": "the answer", "CABackKeyData": "key for the CA's answer", "BackAlgID": "algorithm of the back key", "BackKey": "for the answer back",
	"PublicKeySorE": "the keys to certify", "PublicKeyS": "signature key", "PublicKeyE": "key-exchange key", "CertStatus": "state of the request",
	"CertStatusCode": "state of the request", "Nonce-CCA": "the CA's half of PANSecret", "EEMessage": "to be shown", "CAMsg": "what the wallet shows with the certificate",
	"FailedItemSeq": "answers that the CA does not accept", "AcctDataField": "how to ask for the account", "MerchantBIN": "the acquirer's bank number",
	"AcquirerBIN": "the acquirer's bank number", "AcquirerBusinessID": "the acquirer's number for it", "RequestDate": "when the request was made",

	// Errors (SET §2.3)
	"SignedError": "signed by who refuses", "UnsignedError": "signed by nobody", "ErrorCode": "why", "ErrorNonce": "so that the signature covers something new",
	"ErrorOID": "the extension not known", "ErrorThumb": "the certificate at fault", "ErrorMsg": "the message at fault", "BadWrapper": "the beginning of the message at fault",

	// Wallet bundles
	"WalletBundle":  "makes a wallet that of a bank: believe it when the signer's fingerprint is the one in the bank's letter",
	"Bundle.Signer": "fingerprint of the key that signs: compare it with the bank's letter", "Bundle.Sequence": "grows with every bundle of the bank",
	"Bundle.NotBefore": "not to be installed before", "Bundle.NotAfter": "not to be installed after", "Bundle.Bank": "who gives the wallet out", "Bundle.Brands": "card brands of the bank",
	"Logo": "a PNG image", "Brand.CA": "address of the cardholder CA", "RootKeyHash": "SHA-256 of the root's key", "Root": "everything else is verified with it",
	"Policies": "to be accepted, by language", "Programs": "wallet programs that come with it", "Profile": "is held against SET's",

	// CMS (RFC 5652)
	"ContentType": "of the CMS value", "SID": "the key, by its certificate", "RID": "the key, by its certificate", "SignedAttrs": "what the signature covers",
	"EncapContentInfo": "what is signed", "EContentType": "type of what is signed", "EContent": "what is signed", "Certificates": "sent along", "CRLs": "sent along",
	"SignerInfos": "the signatures", "EncryptedKey": "the content key, under the recipient's", "EncryptedContent": "what only the recipient can open",
	"MAC": "shows any change of the content", "DigestAlgorithms": "of the signatures", "EncryptedInfo": "what is encrypted, and how", "RecipientInfos": "for whom",
	"Signature": "opaque", "KEKID": "names the key", "Subject": "who holds it", "Issuer": "who issued it", "Validity": "when it is valid", "SerialNumber": "its number at its issuer",
	"ThisUpdate": "when it was issued", "NextUpdate": "when the next is due", "Sequence": "its number", "RevokedCertificates": "no longer to be trusted",
}
