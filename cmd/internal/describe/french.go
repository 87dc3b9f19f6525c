package describe

// French says in French what stands around a message of a purchase. What it does not know, as of the messages
// that no cardholder keeps, it says in English.
func French(english string) string {
	if text, ok := french[english]; ok {
		return text
	}
	return english
}

var french = map[string]string{
	// Around fields
	"signed by %s: %s":          "signé par %s : %s",
	"encrypted for %s":          "chiffré pour %s",
	"at offset %d: %s":          "à la position %d : %s",
	"%s: %s, certificate %s":    "%s : %s, certificat %s",
	"whoever sent the back key": "celui qui a envoyé la clé de retour",

	"a key that has no certificate yet":                            "une clé qui n’a pas encore de certificat",
	"the holder of certificate %s, which is not known here, of %s": "le porteur du certificat %s, inconnu ici, de %s",
	"verifies under that certificate":                              "vérifiée avec ce certificat",
	"signs what does not stand here: not tried":                    "signe ce qui n’est pas ici : pas vérifiée",

	// Roles
	"cardholder": "porteur de la carte", "merchant": "marchand", "payment gateway": "passerelle de paiement", "cardholder CA": "AC des porteurs",
	"merchant CA": "AC des marchands", "payment gateway CA": "AC des passerelles", "brand CA": "AC de la marque", "geopolitical CA": "AC régionale", "root CA": "AC racine",

	// Messages
	"the shop wakes the wallet up: in the clear, signed by nobody":           "la boutique réveille le portefeuille : en clair, signé par personne",
	"the cardholder asks for a purchase's identifiers and certificates":      "le porteur demande les identifiants et certificats d’un achat",
	"the merchant gives them, signed":                                        "le marchand les donne, signés",
	"the order for the merchant and the payment instruction for the gateway": "la commande pour le marchand et l’ordre de paiement pour la passerelle",
	"the merchant tells how far the purchase has come":                       "le marchand dit où en est l’achat",
	"the cardholder asks how far a purchase has come":                        "le porteur demande où en est un achat",
	"the merchant tells it":                                                  "le marchand le dit",
	"the message cannot be processed":                                        "le message ne peut pas être traité",

	// Wrapper and identifiers
	"in the clear and not signed": "en clair et non signé", "version of the syntax": "version de la syntaxe", "revision of the version": "révision de la version",
	"when it was made": "date de fabrication", "when the message was made": "date du message",
	"the transaction, as far as the sender knows it": "la transaction, pour autant que l’expéditeur la connaît",
	"the cardholder's number of the transaction":     "le numéro du porteur pour la transaction",
	"the merchant's number of the transaction":       "le numéro du marchand pour la transaction",
	"the purchase, everywhere":                       "l’achat, partout", "pairs a request with its response": "lie une demande et sa réponse",
	"the sender's software": "le logiciel de l’expéditeur", "one message of those that SET has": "l’un des messages de SET",
	"extensions of the wrapper": "extensions de l’enveloppe", "extensions": "extensions",
	"the purchase, as every party names it": "l’achat, tel que chacun le nomme", "when the purchase was begun": "début de l’achat",
	"the card network's number of the transaction":                    "le numéro du réseau de cartes pour la transaction",
	"in which the cardholder is spoken to":                            "dans laquelle on s’adresse au porteur",
	"the response must repeat it: proof that it is fresh":             "la réponse doit le répéter : preuve de fraîcheur",
	"PReq must repeat it: proof that it is fresh":                     "PReq doit le répéter : preuve de fraîcheur",
	"the response must repeat it":                                     "la réponse doit le répéter",
	"the card's brand":                                                "la marque de la carte",
	"first six digits of the card number: the issuer":                 "six premiers chiffres du numéro de carte : la banque émettrice",
	"certificates and lists that the sender has and need not be sent": "certificats et listes que l’expéditeur a déjà",
	"what the merchant has and need not be sent":                      "ce que le marchand a déjà",
	"thumbprints of certificates":                                     "empreintes de certificats",
	"thumbprints of CRLs":                                             "empreintes de listes de révocation",
	"thumbprints of BrandCRLIdentifiers":                              "empreintes de BrandCRLIdentifier",
	"which CRLs of the brand are current, signed by the brand CA":     "les listes de révocation en vigueur de la marque, signées par son AC",
	"the gateway's key-exchange certificate, for which to encrypt":    "le certificat d’échange de clés de la passerelle, pour lequel chiffrer",

	// Purchase
	"of a cardholder with a certificate": "d’un porteur avec certificat", "of a cardholder without a certificate": "d’un porteur sans certificat",
	"payment instruction: only the gateway can open it":                      "ordre de paiement : seule la passerelle peut l’ouvrir",
	"the cardholder's dual signature, over the digests of payment and order": "la double signature du porteur, sur les empreintes du paiement et de la commande",
	"the payment instruction, encrypted for the gateway":                     "l’ordre de paiement, chiffré pour la passerelle",
	"order information, for the merchant, with the digest of the payment":    "informations de commande, pour le marchand, avec l’empreinte du paiement",
	"order information, for the merchant":                                    "informations de commande, pour le marchand",
	"payment instruction without signature: only the gateway can open it":    "ordre de paiement sans signature : seule la passerelle peut l’ouvrir",
	"order information: what the merchant is to deliver":                     "informations de commande : ce que le marchand doit livrer",
	"what is bought; its digest enters both halves of PReq":                  "ce qui est acheté ; son empreinte entre dans les deux moitiés de PReq",
	"digest of the order description, which both sides have":                 "empreinte du descriptif de la commande, que les deux côtés ont",
	"digest of the payment instruction":                                      "empreinte de l’ordre de paiement",
	"digest of the order information":                                        "empreinte des informations de commande",
	"digest of what stands elsewhere":                                        "empreinte de ce qui se trouve ailleurs",
	"digest of what stands elsewhere, which links the two":                   "empreinte de ce qui se trouve ailleurs, qui lie les deux",
	"keeps the order from being guessed by its digest":                       "empêche de deviner la commande par son empreinte",
	"extensions of the order description":                                    "extensions du descriptif de la commande",
	"amount of the purchase":                                                 "montant de l’achat",
	"instalments or recurring payments":                                      "versements échelonnés ou périodiques",
	"the most payments allowed":                                              "nombre maximal de paiements",
	"payments that recur":                                                    "paiements périodiques",
	"least days between payments":                                            "nombre minimal de jours entre les paiements",
	"no payment after this":                                                  "plus de paiement après cette date",
	"one for each authorization":                                             "un par autorisation",
	"how far the purchase has come":                                          "où en est l’achat",
	"what became of the payment":                                             "l’issue du paiement",
	"the authorization":                                                      "l’autorisation",
	"when it was authorized":                                                 "date de l’autorisation",
	"result of the authorization":                                            "résultat de l’autorisation",
	"share of the purchase's amount":                                         "part du montant de l’achat",
	"the capture":                                                            "l’encaissement",
	"when the cardholder is debited":                                         "date du débit du porteur",
	"result of the capture":                                                  "résultat de l’encaissement",
	"credits made and not taken back":                                        "remboursements faits et non repris",
	"when it was credited":                                                   "date du remboursement",
	"result of the credit":                                                   "résultat du remboursement",
	"conversion into the card's currency":                                    "conversion dans la monnaie de la carte",
	"rate of conversion":                                                     "taux de conversion",
	"the card's currency":                                                    "la monnaie de la carte",
	"from the gateway to the cardholder: the merchant cannot open it":        "de la passerelle au porteur : le marchand ne peut pas l’ouvrir",
	"signed, as the purchase was":                                            "signé, comme l’achat",
	"unsigned, as the purchase was":                                          "non signé, comme l’achat",

	// Errors
	"signed by who refuses": "signé par celui qui refuse", "signed by nobody": "signé par personne", "why": "pourquoi",
	"so that the signature covers something new": "pour que la signature porte sur du nouveau", "the extension not known": "l’extension inconnue",
	"the certificate at fault": "le certificat en cause", "the message at fault": "le message en cause", "the beginning of the message at fault": "le début du message en cause",

	// CMS and certificates
	"of the CMS value": "de la valeur CMS", "the key, by its certificate": "la clé, par son certificat", "what the signature covers": "ce que couvre la signature",
	"what is signed": "ce qui est signé", "type of what is signed": "type de ce qui est signé", "sent along": "joints", "the signatures": "les signatures",
	"the content key, under the recipient's": "la clé du contenu, sous celle du destinataire", "what only the recipient can open": "ce que seul le destinataire peut ouvrir",
	"shows any change of the content": "révèle tout changement du contenu", "of the signatures": "des signatures", "what is encrypted, and how": "ce qui est chiffré, et comment",
	"for whom": "pour qui", "opaque": "opaque", "names the key": "désigne la clé", "who holds it": "son porteur", "who issued it": "son émetteur", "when it is valid": "période de validité",
	"its number at its issuer": "son numéro chez son émetteur", "when it was issued": "date d’émission", "when the next is due": "date de la prochaine", "its number": "son numéro",
	"no longer to be trusted": "à ne plus croire",
}
