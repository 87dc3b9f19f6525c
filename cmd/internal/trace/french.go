package trace

import "github.com/setkit/setkit/cmd/internal/describe"

// French says in French what the pages and pictures of a wallet's purchase say. What it does not know, it says
// in English.
func French(english string) string {
	if text, ok := french[english]; ok {
		return text
	}
	return describe.French(english)
}

var french = map[string]string{
	// Parties, as a heading and in a sentence
	"Card": "Carte", "Wallet": "Portefeuille", "Merchant": "Marchand", "Gateway": "Passerelle", "Issuer": "Émetteur", "Issuer, the bank": "Émetteur, la banque",
	"card": "carte", "wallet": "portefeuille", "merchant": "marchand", "gateway": "passerelle", "issuer": "émetteur",
	"key, PIN": "clé, NIP", "cardholder": "porteur", "shop": "boutique", "acquirer": "acquéreur", "bank": "banque",

	// Who saw what
	"Who saw what": "Qui a vu quoi", "What signed it": "Ce qui l’a signé", "Step through the messages": "Parcourir les messages", "The sequence": "Le déroulement",
	"The wallet puts the order and the payment into one message, each for another reader, and the card signs digests of both together. So neither the merchant nor the gateway reads what is not for it, and both can tell that the two belong together.": "Le portefeuille met la commande et le paiement dans un seul message, chacun pour un autre lecteur, et la carte signe ensemble les empreintes des deux. Ainsi ni le marchand ni la passerelle ne lit ce qui n’est pas pour lui, et les deux savent que l’un va avec l’autre.",
	"The merchant never read the card number.":          "Le marchand n’a jamais lu le numéro de carte.",
	"The merchant never read the card's expiry.":        "Le marchand n’a jamais lu l’échéance de la carte.",
	"The merchant never read the cardholder's secret.":  "Le marchand n’a jamais lu le secret du porteur.",
	"The merchant could read the card number":           "Le marchand a pu lire le numéro de carte",
	"The merchant could read the card's expiry":         "Le marchand a pu lire l’échéance de la carte",
	"The merchant could read the cardholder's secret":   "Le marchand a pu lire le secret du porteur",
	"SET promises that it never does.":                  "SET promet que cela n’arrive jamais.",
	"By SET’s rules the gateway never gets the order.":  "Selon les règles de SET, la passerelle ne reçoit jamais la commande.",
	"By SET’s rules the issuer never gets the order.":   "Selon les règles de SET, l’émetteur ne reçoit jamais la commande.",
	"read: wrote it, got it in the clear, or opened it": "lu : écrit, reçu en clair ou ouvert",
	"digest: enough to compare, not to read":            "empreinte : de quoi comparer, pas lire",
	"encrypted: passed through, for another to open":    "chiffré : passé par là, à ouvrir par un autre",
	"What": "Quoi", "by SET’s rules": "selon les règles de SET", "read": "lu", "digest only": "empreinte seule", "in": "dans", "never there": "jamais là",
	"encrypted for the gateway": "chiffré pour la passerelle", "encrypted for the wallet": "chiffré pour le portefeuille",
	"Order": "Commande", "what is bought, in words": "ce qui est acheté, en mots", "Amount": "Montant",
	"Card number": "Numéro de carte", "all of its digits": "tous ses chiffres", "Card's expiry": "Échéance de la carte",
	"Cardholder's secret": "Secret du porteur", "agreed with the bank when the card was registered": "convenu avec la banque à l’enregistrement de la carte",
	"Card's bank": "Banque de la carte", "the first six digits of the card number": "les six premiers chiffres du numéro de carte",
	"Cardholder's certificate": "Certificat du porteur", "has no name, but a digest of the account": "sans nom, mais avec une empreinte du compte",
	"Merchant's identity": "Identité du marchand", "number, name or certificate": "numéro, nom ou certificat", "Gateway's certificate": "Certificat de la passerelle",
	"itself, or its thumbprint where it is known": "lui-même, ou son empreinte là où il est connu",
	"The bank's decision":                         "Décision de la banque",
	"The numbers are messages. What wallet and merchant saw is worked out from the octets of the messages that this wallet sent and got; the last digits of the card number are looked for in all of them. What merchant, gateway and bank say to each other does not pass through the wallet: of that it knows what SET’s rules demand when the merchant passes the payment on, and the certificate for which it encrypted the payment.": "Les nombres désignent les messages. Ce qu’ont vu le portefeuille et le marchand se déduit des octets des messages que ce portefeuille a envoyés et reçus ; les derniers chiffres du numéro de carte y sont cherchés partout. Ce que se disent marchand, passerelle et banque ne passe pas par le portefeuille : il n’en sait que ce qu’exigent les règles de SET quand le marchand transmet le paiement, et le certificat pour lequel il a chiffré le paiement.",

	// What signed it
	"Message": "Message", "What is signed": "Ce qui est signé", "Key": "Clé", "Certificate": "Certificat", "Seen here": "Vu ici", "Nothing is signed.": "Rien n’est signé.",
	"card, key 9C, after the PIN": "carte, clé 9C, après le NIP",
	"the merchant's key":          "la clé du marchand",
	"the gateway's key":           "la clé de la passerelle",
	"In which devices the others keep their keys the wallet cannot see.": "Dans quels appareils les autres gardent leurs clés, le portefeuille ne le voit pas.",
	"passed on by the merchant":                                              "transmis par le marchand",
	"inside the encryption: only the wallet sees it":                         "dans le chiffrement : seul le portefeuille le voit",
	"%s, seen in message %d":                                                 "%s, vu dans le message %d",
	"its certificate is in no message up to here":                            "son certificat n’est dans aucun message jusqu’ici",
	"verifies under that certificate, over the digests of order and payment": "vérifiée avec ce certificat, sur les empreintes de la commande et du paiement",
	"DOES NOT VERIFY under that certificate":                                 "NON VÉRIFIÉE avec ce certificat",
	"over digests that are not both here: the gateway tries it":              "sur des empreintes dont l’une n’est pas ici : la passerelle la vérifie",

	// A message
	"Messages": "Messages", "Previous": "Précédent", "Next": "Suivant", "First message": "Premier message", "Last message": "Dernier message", "All messages": "Tous les messages",
	"Part": "Partie", "Who can read it, who signed it": "Qui peut la lire, qui l’a signée", "Signatures": "Signatures", "Every field": "Tous les champs",
	"Open a line to see what is in it. What is encrypted stays closed: only the holder of the key can open it. Card numbers are masked.": "Ouvrez une ligne pour voir ce qu’elle contient. Ce qui est chiffré reste fermé : seul le détenteur de la clé peut l’ouvrir. Les numéros de carte sont masqués.",
	"wake-up": "réveil", "who are you?": "qui êtes-vous ?", "certificates, XID": "certificats, XID", "order + payment": "commande + paiement", "result": "résultat",
	"what became of it?": "qu’en est-il ?", "may it be paid?": "peut-on payer ?", "decision": "décision", "refused": "refusé",
	"ORDER: goods and amount": "COMMANDE : articles, montant", "brand, bank, challenge": "marque, banque, défi", "certificates, identifiers": "certificats, identifiants",
	"ORDER: its digest, identifiers": "COMMANDE : empreinte, n°", "dual signature over both": "double signature des deux", payment: "PAIEMENT : n° de carte, montant",
	"result of the purchase": "résultat de l’achat", "which purchase": "quel achat", "what is wrong": "ce qui ne va pas", "message to the cardholder": "message au porteur",
	"the whole message": "tout le message", "malformed": "malformé",
	"; ": " ; ", ": ": " : ", "not encrypted": "non chiffré", "for the merchant, not encrypted": "pour le marchand, non chiffré", "only the gateway can read it": "seule la passerelle peut le lire",
	"only the wallet can read it": "seul le portefeuille peut le lire", "wallet only": "portefeuille seul", "signed by card": "signé par la carte",
	"signed by merchant": "signé par le marchand", "signed by gateway": "signé par la passerelle",

	// The sequence
	"A purchase with SET: who can read what": "Un achat avec SET : qui peut lire quoi", "SET messages: who can read what": "Messages SET : qui peut lire quoi",
	"The merchant reads the order and never the card number; the gateway reads the card number and never the order.": "Le marchand lit la commande, jamais le numéro de carte ; la passerelle lit le numéro de carte, jamais la commande.",
	"encrypted for the party of that colour": "chiffré pour la partie de cette couleur", "a signature alone": "une signature seule",
	"left: time since the first message, size, status": "à gauche : temps depuis le premier message, taille, état",
	"PIN, digest": "NIP, empreinte", "signature": "signature", "PIN, two digests": "NIP, 2 empreintes", "one signature": "une signature",
	"Sequence diagram, may be wider than the screen": "Diagramme de séquence, peut-être plus large que l’écran",
	"%d: %s, %s to %s": "%d : %s, de %s à %s", "%s from %s to %s:": "%s de %s à %s :", "Kept by the wallet, %s": "Gardé par le portefeuille, %s",
	"The shop wakes the wallet":                                        "La boutique réveille le portefeuille",
	"The wallet learns what is ordered and where to send the payment.": "Il apprend ce qui est commandé et où envoyer le paiement.",
	"Wallet and merchant meet":                                         "Portefeuille et marchand se présentent",
	"The wallet checks who the merchant is, and gets the key of the merchant's payment gateway.": "Le portefeuille vérifie qui est le marchand et reçoit la clé de sa passerelle.",
	"The purchase": "L’achat",
	"The card signs the digests of order and payment together; each party gets its half, and the digest of the other.": "La carte signe ensemble les empreintes de commande et paiement ; chacun reçoit sa part et l’empreinte de l’autre.",
	"An inquiry": "Une question",
	"The wallet asks what became of a purchase.":                                            "Le portefeuille demande ce qu’il est advenu d’un achat.",
	"What the wallet does not see":                                                          "Ce que le portefeuille ne voit pas",
	"Merchant, gateway and bank go on by SET's rules, if the payment reached the merchant.": "Selon les règles de SET, si le paiement est arrivé chez le marchand.",
}
