package web

import (
	"strings"

	"github.com/setkit/setkit/roles/set"
)

// Topics of devices, peers and the wallet, besides those of initiation messages.
const (
	TopicWrongPIN      Topic = "wrong-pin" // after which, and after TopicPINFormat, the PIN is asked for again
	TopicNoService     Topic = "no-service"
	TopicDenied        Topic = "denied"
	TopicNoReader      Topic = "no-reader"
	TopicNoCard        Topic = "no-card"
	TopicRemoved       Topic = "removed"
	TopicReset         Topic = "reset"
	TopicInUse         Topic = "in-use"
	TopicMute          Topic = "mute"
	TopicUnavailable   Topic = "unavailable"
	TopicBlocked       Topic = "blocked"
	TopicWrongPUK      Topic = "wrong-puk" // after which the PUK is asked for again
	TopicPUKBlocked    Topic = "puk-blocked"
	TopicLastTry       Topic = "last-try"
	TopicPINFormat     Topic = "pin-format"
	TopicPadTimeout    Topic = "pad-timeout"
	TopicPadCancelled  Topic = "pad-cancelled"
	TopicPadLength     Topic = "pad-length"
	TopicNoPIV         Topic = "no-piv"
	TopicNoKeys        Topic = "no-keys"
	TopicUnsupported   Topic = "unsupported"
	TopicStatus        Topic = "status"
	TopicKeyReplaced   Topic = "key-replaced"
	TopicOtherCard     Topic = "other-card"
	TopicTouch         Topic = "touch"
	TopicTakeOut       Topic = "take-out"
	TopicSignatureLost Topic = "signature-lost"
	TopicVault         Topic = "vault"
	TopicNotEnrolled   Topic = "not-enrolled"
	TopicOrderOpen     Topic = "order-open"
	TopicPeerAway      Topic = "peer-away"
	TopicCertificate   Topic = "certificate"
	TopicPeerRefused   Topic = "peer-refused"
	TopicProtocol      Topic = "protocol"
	TopicCARefused     Topic = "ca-refused"
	TopicReferral      Topic = "referral"
	TopicCAPending     Topic = "ca-pending" // after which the CA is asked again
	TopicNoRequest     Topic = "no-request"
	TopicBundleForm    Topic = "bundle-form"
	TopicBundleTime    Topic = "bundle-time"
	TopicBundleSigner  Topic = "bundle-signer"
	TopicBundleOlder   Topic = "bundle-older"
	TopicOther         Topic = "other"
)

// Advice is what a person is told about a topic.
type Advice struct{ Title, Do string }

// words is a text in every language.
type words struct{ en, fr string }

func (w words) in(l set.Language) string {
	if l == "fr" {
		return frenchSpaces.Replace(w.fr)
	}
	return w.en
}

// frenchSpaces has no line break between a punctuation mark and the word it belongs to.
var frenchSpaces = strings.NewReplacer("« ", "«\u00a0", " »", "\u00a0»", " ?", "\u00a0?", " :", "\u00a0:", " ;", "\u00a0;", " …", "\u00a0…")

type adviceText struct {
	topic     Topic
	title, do words
}

func (a adviceText) in(l set.Language) Advice { return Advice{a.title.in(l), a.do.in(l)} }

// advice is adviceTexts by topic.
var advice = func() map[Topic]adviceText {
	out := make(map[Topic]adviceText)
	for _, a := range adviceTexts {
		out[a.topic] = a
	}
	return out
}()

// Topics lists the topics in the order of the help page.
func Topics() []Topic {
	var out []Topic
	for _, a := range adviceTexts {
		out = append(out, a.topic)
	}
	return out
}

var adviceTexts = []adviceText{
	{TopicWrongPIN, words{"The PIN was wrong", "Le NIP était faux"},
		words{"Enter it again. A few wrong entries in a row block the card; a right one starts the count anew.",
			"Saisissez-le de nouveau. Quelques erreurs de suite bloquent la carte ; un NIP juste remet le compte à zéro."}},
	{TopicBlocked, words{"The PIN is blocked", "Le NIP est bloqué"},
		words{"Too many wrong PINs were entered. Set a new one with the PUK from your bank’s letter, on the page “Cards”. Without the PUK, ask your bank for a new card.",
			"Trop de NIP faux ont été saisis. Choisissez-en un nouveau avec le code PUK de la lettre de votre banque, à la page « Cartes ». Sans code PUK, demandez une nouvelle carte à votre banque."}},
	{TopicWrongPUK, words{"The PUK was wrong", "Le code PUK était faux"},
		words{"The PIN was not changed. Copy the PUK from your bank’s letter. A few wrong entries in a row block it for good.",
			"Le NIP n’a pas été changé. Recopiez le code PUK de la lettre de votre banque. Quelques erreurs de suite le bloquent pour toujours."}},
	{TopicPUKBlocked, words{"The PUK is blocked", "Le code PUK est bloqué"},
		words{"Too many wrong PUKs were entered, and nothing can unblock the card any more. Ask your bank for a new one.",
			"Trop de codes PUK faux ont été saisis et plus rien ne peut débloquer la carte. Demandez-en une nouvelle à votre banque."}},
	{TopicLastTry, words{"Only one try is left", "Il ne reste qu’un essai"},
		words{"One more mistake blocks the card. Look the PIN, or the PUK, up before you go on.",
			"Encore une erreur et la carte est bloquée. Vérifiez le NIP, ou le code PUK, avant de continuer."}},
	{TopicPINFormat, words{"This cannot be a PIN", "Ce ne peut pas être un NIP"},
		words{"PIN and PUK have 6 to 8 characters. The card was not asked and no try was used.",
			"NIP et code PUK comptent de 6 à 8 caractères. La carte n’a pas été interrogée ; aucun essai n’est perdu."}},
	{TopicPadTimeout, words{"No PIN was entered on the reader", "Aucun NIP n’a été saisi sur le lecteur"},
		words{"The reader stops waiting after half a minute. Try again and enter the PIN on its keys.",
			"Le lecteur n’attend qu’une demi-minute. Réessayez et saisissez le NIP sur ses touches."}},
	{TopicPadCancelled, words{"The entry was cancelled on the reader", "La saisie a été annulée sur le lecteur"},
		words{"Nothing was done. Try again if you did not mean to cancel.",
			"Rien n’a été fait. Réessayez si vous ne vouliez pas annuler."}},
	{TopicPadLength, words{"The entry on the reader cannot be a PIN", "La saisie sur le lecteur ne peut pas être un NIP"},
		words{"A PIN has 6 to 8 digits, and a new one must be the same twice. Try again; no try was used.",
			"Un NIP compte de 6 à 8 chiffres et le nouveau se saisit deux fois de même. Réessayez ; aucun essai n’est perdu."}},
	{TopicNoCard, words{"The card is in no reader", "La carte n’est dans aucun lecteur"},
		words{"Put the card into a reader, with the chip first and facing up.",
			"Insérez la carte dans un lecteur, la puce en avant et vers le haut."}},
	{TopicRemoved, words{"The card was taken out", "La carte a été retirée"},
		words{"Put the same card back into a reader. The wallet goes on where it was.",
			"Remettez la même carte dans un lecteur. Le portefeuille continue là où il s’était arrêté."}},
	{TopicOtherCard, words{"This is another card", "C’est une autre carte"},
		words{"Put the card back with which you began; its number is printed with each card in the list of cards.",
			"Remettez la carte avec laquelle vous avez commencé ; la liste des cartes indique le numéro de chacune."}},
	{TopicMute, words{"The card does not answer", "La carte ne répond pas"},
		words{"Take it out, look whether it lies the right way round, wipe the chip with a dry cloth and put it in again.",
			"Retirez-la, vérifiez son sens, essuyez la puce avec un chiffon sec et remettez-la."}},
	{TopicReset, words{"Another program has reset the card", "Un autre programme a réinitialisé la carte"},
		words{"Close other programs that use the card and try again.",
			"Fermez les autres programmes qui utilisent la carte et réessayez."}},
	{TopicInUse, words{"Another program holds the card", "Un autre programme retient la carte"},
		words{"Close it. GnuPG lets go with “gpgconf --kill scdaemon”.",
			"Fermez-le. GnuPG la libère avec « gpgconf --kill scdaemon »."}},
	{TopicTouch, words{"Waiting for the card", "En attente de la carte"},
		words{"Some cards and keys want to be touched when their light blinks.",
			"Certaines cartes et clés doivent être touchées quand leur voyant clignote."}},
	{TopicTakeOut, words{"Take the card out of the reader", "Retirez la carte du lecteur"},
		words{"What you approved is done. But the card could not be told to forget the PIN; when it is taken out it does.",
			"Ce que vous avez approuvé est fait. Mais la carte n’a pas pu être priée d’oublier le NIP ; une fois retirée, elle l’oublie."}},
	{TopicNoReader, words{"There is no card reader", "Il n’y a pas de lecteur de cartes"},
		words{"Connect one. If it is connected, try another socket, without a hub between.",
			"Branchez-en un. S’il est branché, essayez une autre prise, sans concentrateur."}},
	{TopicNoService, words{"The smart card service does not run", "Le service des cartes à puce ne fonctionne pas"},
		words{"On Linux install and start it: “apt install pcscd”, “systemctl enable --now pcscd.socket”. On Windows start the service “Smart Card”.",
			"Sous Linux, installez-le et démarrez-le : « apt install pcscd », « systemctl enable --now pcscd.socket ». Sous Windows, démarrez le service « Carte à puce »."}},
	{TopicDenied, words{"The smart card service does not serve this program", "Le service des cartes à puce refuse ce programme"},
		words{"On Linux polkit decides. Log in at the computer itself, or have its administrator allow org.debian.pcsc-lite.access_pcsc.",
			"Sous Linux, polkit décide. Connectez-vous sur l’ordinateur même, ou faites autoriser org.debian.pcsc-lite.access_pcsc par son administrateur."}},
	{TopicUnavailable, words{"The card cannot be reached", "La carte est inaccessible"},
		words{"Take it out and put it in again. If that does not help, unplug the reader and plug it in.",
			"Retirez-la et remettez-la. Si cela n’aide pas, débranchez puis rebranchez le lecteur."}},
	{TopicNoPIV, words{"This card cannot pay", "Cette carte ne sait pas payer"},
		words{"It is no PIV card. Use the card from your bank.",
			"Ce n’est pas une carte PIV. Utilisez celle de votre banque."}},
	{TopicNoKeys, words{"The card has no keys yet", "La carte n’a pas encore de clés"},
		words{"Your bank makes them before it gives the card out. For a card of your own: “set-card personalise”.",
			"La banque les crée avant de remettre la carte. Pour une carte à vous : « set-card personalise »."}},
	{TopicUnsupported, words{"The card does not have this function", "La carte n’a pas cette fonction"},
		words{"Use another card, or ask your bank.",
			"Utilisez une autre carte ou demandez à votre banque."}},
	{TopicStatus, words{"The card refuses", "La carte refuse"},
		words{"The details have its reason. Try again; if it comes back, show the details to your bank.",
			"Les détails donnent sa raison. Réessayez ; si cela se répète, montrez-les à votre banque."}},
	{TopicKeyReplaced, words{"The card has another key than the certified one", "La clé de la carte n’est plus celle qui est certifiée"},
		words{"It was replaced since the card was enrolled. Enrol the card again. If you did not have it replaced, ask your bank first.",
			"Elle a été remplacée depuis l’enregistrement. Enregistrez la carte de nouveau. Si vous n’y êtes pour rien, parlez-en d’abord à votre banque."}},
	{TopicSignatureLost, words{"The card was lost while it signed", "La carte a disparu pendant la signature"},
		words{"Nothing was sent and nothing was paid. You may try again: then the card signs anew.",
			"Rien n’a été envoyé, rien n’a été payé. Vous pouvez réessayer : la carte signera de nouveau."}},
	{TopicVault, words{"The stored card data is damaged", "Les données enregistrées de la carte sont endommagées"},
		words{"Enrol the card again.", "Enregistrez la carte de nouveau."}},
	{TopicNotEnrolled, words{"No enrolled card fits", "Aucune carte enregistrée ne convient"},
		words{"The merchant does not take your cards, or the certificate has expired. Enrol a card of a brand that it takes on the page “Cards”.",
			"Le marchand n’accepte pas vos cartes, ou leur certificat a expiré. Enregistrez une carte d’une marque acceptée à la page « Cartes »."}},
	{TopicOrderOpen, words{"This order is being paid already", "Cette commande est déjà en cours de paiement"},
		words{"Nothing was sent now. The history has what became of it.",
			"Rien n’a été envoyé cette fois. L’historique dit ce qu’il en est."}},
	{TopicPeerAway, words{"No answer", "Pas de réponse"},
		words{"The merchant or the bank cannot be reached. Look at the network, wait a little, try again.",
			"Le marchand ou la banque est injoignable. Vérifiez le réseau, attendez un peu, réessayez."}},
	{TopicCertificate, words{"A certificate is not valid", "Un certificat n’est pas valable"},
		words{"Whoever answered cannot prove to be the merchant or bank. Nothing was paid. Tell the shop, and do not pay there in another way meanwhile.",
			"Celui qui répond ne peut prouver qu’il est le marchand ou la banque. Rien n’a été payé. Prévenez la boutique et n’y payez pas autrement entre-temps."}},
	{TopicProtocol, words{"The answer is not acceptable", "La réponse n’est pas acceptable"},
		words{"What came does not fit what was asked, or was changed on its way. Nothing was paid. Order again; if it comes back, show the details to the shop.",
			"La réponse ne correspond pas à la demande, ou a été modifiée en route. Rien n’a été payé. Recommandez ; si cela se répète, montrez les détails à la boutique."}},
	{TopicPeerRefused, words{"The other side refuses", "L’autre partie refuse"},
		words{"It could not work with what the wallet sent. Nothing was paid. Order again; if it comes back, show the details to the shop.",
			"Elle n’a pu traiter ce que le portefeuille a envoyé. Rien n’a été payé. Recommandez ; si cela se répète, montrez les détails à la boutique."}},
	{TopicCARefused, words{"The bank does not enrol this card", "La banque n’enregistre pas cette carte"},
		words{"The details have its reason. Check what you filled in, or ask your bank.",
			"Les détails donnent sa raison. Vérifiez vos réponses ou demandez à votre banque."}},
	{TopicCAPending, words{"Your bank is looking at your request", "Votre banque examine votre demande"},
		words{"Somebody there has to approve it. Ask again later, here or on the page “Cards”.",
			"Quelqu’un doit l’y approuver. Redemandez plus tard, ici ou à la page « Cartes »."}},
	{TopicNoRequest, words{"No request of this card is waiting", "Aucune demande de cette carte n’est en attente"},
		words{"It was answered, or never sent. Enrol the card.",
			"Elle a reçu sa réponse ou n’a jamais été envoyée. Enregistrez la carte."}},
	{TopicReferral, words{"The bank refers you elsewhere", "La banque vous renvoie ailleurs"},
		words{"It has no form for this card number. The details say where to ask.",
			"Elle n’a pas de formulaire pour ce numéro de carte. Les détails disent où s’adresser."}},
	{TopicMessage, words{"This is no order to pay", "Ce n’est pas une commande à payer"},
		words{"What opened the wallet cannot be read, or asks for something else. Go back to the shop and press its button again.",
			"Ce qui a ouvert le portefeuille est illisible ou demande autre chose. Retournez à la boutique et pressez de nouveau son bouton."}},
	{TopicMoney, words{"The amount cannot be understood", "Le montant est incompréhensible"},
		words{"Its currency is not known, so nobody could tell what you would pay. Do not pay; tell the shop.",
			"La monnaie est inconnue : nul ne saurait dire ce que vous paieriez. Ne payez pas ; prévenez la boutique."}},
	{TopicLocal, words{"This points to your own computer", "Ceci renvoie à votre propre ordinateur"},
		words{"No real shop or bank does that; a page that wants to reach programs on your computer might. Nothing was sent. To try shops and banks on this computer, start “set-wallet ui --local”.",
			"Aucune vraie boutique ni banque ne fait cela ; une page qui veut atteindre des programmes de votre ordinateur, peut-être. Rien n’a été envoyé. Pour essayer des boutiques et des banques sur cet ordinateur : « set-wallet ui --local »."}},
	{TopicNoBank, words{"No bank is installed for this", "Aucune banque n’est installée pour cela"},
		words{"Install the bundle that your bank gives out, on the page “Cards”, and compare the fingerprint with the bank’s letter.",
			"Installez le paquet que remet votre banque, à la page « Cartes », et comparez l’empreinte avec la lettre de la banque."}},
	{TopicBundleForm, words{"This is no bundle of a bank", "Ce n’est pas un paquet de banque"},
		words{"It is something else, or was changed after the bank signed it. Nothing was installed. Get the file from your bank again.",
			"C’est autre chose, ou le paquet a été modifié après que la banque l’a signé. Rien n’a été installé. Redemandez le fichier à votre banque."}},
	{TopicBundleTime, words{"The bundle is not valid now", "Le paquet n’est pas valable actuellement"},
		words{"It has expired, or is not to be used yet. Look whether the clock of this computer is right, and get the bank’s current bundle.",
			"Il est périmé ou ne sert pas encore. Vérifiez l’horloge de cet ordinateur et demandez le paquet actuel de la banque."}},
	{TopicBundleSigner, words{"Somebody else has signed the bundle", "Quelqu’un d’autre a signé le paquet"},
		words{"It is not signed by the key that this bank had, or not by the one whose fingerprint you gave. Nothing was installed. If the bank has told you of a new key, give its fingerprint; otherwise ask the bank.",
			"Il n’est pas signé par la clé qu’avait cette banque, ou pas par celle dont vous avez donné l’empreinte. Rien n’a été installé. Si la banque vous a annoncé une nouvelle clé, donnez son empreinte ; sinon, demandez à la banque."}},
	{TopicBundleOlder, words{"The installed bundle is kept", "Le paquet installé est conservé"},
		words{"It is later than this one, or has the same number. Nothing was changed. Get the bank’s current bundle.",
			"Il est plus récent que celui-ci ou porte le même numéro. Rien n’a été changé. Demandez le paquet actuel de la banque."}},
	{TopicOther, words{"Something went wrong", "Quelque chose a échoué"},
		words{"The details say what. Nothing was paid unless the history shows it.",
			"Les détails disent quoi. Rien n’a été payé, sauf si l’historique le montre."}},
}
