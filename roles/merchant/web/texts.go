package web

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/text/language"

	"github.com/setkit/setkit/roles/merchant"
)

// lang is a language of the pages, an index into a text.
type lang int

const (
	english lang = iota
	french
	languages // how many there are
)

func (l lang) String() string { return [languages]string{"en", "fr"}[l] }

var matcher = language.NewMatcher([]language.Tag{language.English, language.French})

// languageOf is the language that the browser asks for, as far as there are texts in it.
func languageOf(r *http.Request) lang {
	_, i := language.MatchStrings(matcher, r.Header.Get("Accept-Language"))
	return lang(i)
}

// text is one text in every language.
type text [languages]string

// texts are all that the pages say. Templates and code name them by their key.
var texts = map[string]text{
	"skip":             {"Skip to the content", "Aller au contenu"},
	"navigation":       {"Pages of the shop", "Pages de la boutique"},
	"catalogue":        {"Catalogue", "Catalogue"},
	"basket":           {"Basket", "Panier"},
	"orders":           {"Orders", "Commandes"},
	"your-orders":      {"Your orders", "Vos commandes"},
	"footer":           {"Paid with your card in your own reader. The shop never sees the card number.", "Vous payez avec votre carte dans votre propre lecteur. La boutique ne voit jamais le numéro de la carte."},
	"quantity":         {"Quantity", "Quantité"},
	"quantity-of":      {"Quantity of %s", "Quantité de %s"},
	"add":              {"Add to basket", "Ajouter au panier"},
	"add-item":         {"Add to basket: %s", "Ajouter au panier : %s"},
	"item":             {"Item", "Article"},
	"each":             {"Each", "Prix unitaire"},
	"sum":              {"Sum", "Montant"},
	"total":            {"Total", "Total"},
	"zero-removes":     {"Quantity 0 removes an item.", "La quantité 0 retire un article."},
	"paid":             {"Payment", "Paiement"},
	"at-once":          {"All at once", "En une fois"},
	"order":            {"Place the order", "Passer la commande"},
	"change":           {"Update quantities", "Mettre à jour les quantités"},
	"retyped":          {"The quantities were updated. Please check the total, then place the order.", "Les quantités ont été mises à jour. Veuillez vérifier le total, puis passer la commande."},
	"basket-empty":     {"There is nothing in your basket.", "Votre panier est vide."},
	"to-catalogue":     {"To the catalogue", "Voir le catalogue"},
	"pay":              {"Pay with card reader", "Payer avec le lecteur de carte"},
	"pay-hint":         {"Your wallet opens, shows what you pay and to whom, and asks for your PIN. Nothing is paid before that. If it does not open by itself, open the file that your browser has saved.", "Votre portefeuille s’ouvre, montre ce que vous payez et à qui, et demande votre code PIN. Rien n’est payé avant. S’il ne s’ouvre pas de lui-même, ouvrez le fichier que votre navigateur a enregistré."},
	"look-again":       {"See how it stands now", "Voir où en est la commande"},
	"refreshes":        {"This page refreshes by itself.", "Cette page se met à jour d’elle-même."},
	"ordered":          {"What was ordered", "Articles commandés"},
	"ordered-at":       {"Ordered", "Commandé le"},
	"xid":              {"Transaction", "Transaction"},
	"approval":         {"Approval code", "Code d’autorisation"},
	"refunded":         {"Refunded", "Remboursé"},
	"number":           {"Order", "Commande"},
	"date":             {"Date", "Date"},
	"state":            {"State", "État"},
	"order-n":          {"Order %d", "Commande %d"},
	"history-hint":     {"Orders made with this browser are listed here until 30 days after the last change of its basket.", "Les commandes faites avec ce navigateur restent ici jusqu’à 30 jours après la dernière modification de son panier."},
	"no-orders":        {"No order was made with this browser.", "Aucune commande n’a été faite avec ce navigateur."},
	"back":             {"Back", "Retour"},
	"not-found":        {"There is no such page", "Cette page n’existe pas"},
	"not-found-text":   {"Perhaps its address is not complete.", "Son adresse est peut-être incomplète."},
	"no-order":         {"There is no such order", "Cette commande n’existe pas"},
	"unavailable":      {"The shop cannot answer now", "La boutique ne peut pas répondre pour l’instant"},
	"unavailable-text": {"Please look again in a moment how it stands.", "Veuillez vérifier dans un instant où en sont les choses."},
	"bad-form":         {"This cannot be understood", "Cette demande est incompréhensible"},
	"bad-form-text":    {"Something is missing from the form, or is not a whole number.", "Il manque quelque chose au formulaire, ou un nombre n’est pas entier."},
	"cannot-order":     {"This cannot be ordered", "Ceci ne peut pas être commandé"},
	"cannot-order-text": {
		"The shop sells up to 50 different items at a time, each up to 999 times, and only what is in its catalogue.",
		"La boutique vend jusqu’à 50 articles différents à la fois, chacun jusqu’à 999 fois, et seulement ce qui est dans son catalogue.",
	},
	"basket-changed":      {"The basket has changed", "Le panier a changé"},
	"basket-changed-text": {"It is no longer what you saw, perhaps because of another tab. Please look at it again.", "Il n’est plus ce que vous avez vu, peut-être à cause d’un autre onglet. Veuillez le vérifier."},
	"no-pay":              {"This order is not to be paid now", "Cette commande n’est pas à payer maintenant"},
	"foreign":             {"This came from another site", "Ceci vient d’un autre site"},
	"foreign-text":        {"A form of this shop is only taken from its own pages. Nothing was changed.", "Un formulaire de cette boutique n’est accepté que de ses propres pages. Rien n’a été modifié."},

	"terms-split":   {"Each shipment is paid by itself", "Chaque envoi est payé séparément"},
	"terms-install": {"In %d instalments", "En %d fois"},
	"terms-recur":   {"Every %d days until %s", "Tous les %d jours jusqu’au %s"},

	"state-new":         {"not paid", "non payée"},
	"state-received":    {"payment received", "paiement reçu"},
	"state-authorizing": {"being authorized", "en autorisation"},
	"state-declined":    {"declined", "refusée"},
	"state-failed":      {"failed", "échouée"},
	"state-authorized":  {"authorized", "autorisée"},
	"state-captured":    {"paid", "payée"},
	"state-voided":      {"taken back", "annulée"},
	"state-refunded":    {"refunded", "remboursée"},
	"state-unresolved":  {"being looked into", "en cours d’examen"},

	"head-new":         {"Not paid yet", "Pas encore payée"},
	"say-new":          {"The order is waiting for your payment.", "La commande attend votre paiement."},
	"head-cancel":      {"You cancelled the payment", "Vous avez annulé le paiement"},
	"say-cancel":       {"Nothing was charged. The order is kept, and you can pay it now or later.", "Rien n’a été débité. La commande est conservée, et vous pouvez la payer maintenant ou plus tard."},
	"head-failure":     {"The payment did not come about", "Le paiement n’a pas eu lieu"},
	"say-failure":      {"Nothing was charged. You can try again.", "Rien n’a été débité. Vous pouvez réessayer."},
	"head-received":    {"Thank you. Your payment was received.", "Merci. Votre paiement est reçu."},
	"say-received":     {"Each shipment will be charged by itself. You need not do anything more.", "Chaque envoi sera débité séparément. Vous n’avez plus rien à faire."},
	"head-authorizing": {"Your payment is being processed", "Votre paiement est en cours"},
	"say-authorizing":  {"Your bank is being asked. Do not pay again.", "Votre banque est interrogée. Ne payez pas une seconde fois."},
	"head-declined":    {"The payment was declined", "Le paiement a été refusé"},
	"say-declined":     {"Your bank did not agree, and nothing was charged. You can pay again, perhaps with another card.", "Votre banque n’a pas accepté, et rien n’a été débité. Vous pouvez payer de nouveau, peut-être avec une autre carte."},
	"head-failed":      {"The payment could not be processed", "Le paiement n’a pas pu être traité"},
	"say-failed":       {"Nothing was charged. You can pay again.", "Rien n’a été débité. Vous pouvez payer de nouveau."},
	"head-authorized":  {"Thank you. Your payment is authorized.", "Merci. Votre paiement est autorisé."},
	"say-authorized":   {"It is charged when your order is sent.", "Il sera débité à l’envoi de votre commande."},
	"head-captured":    {"Thank you. Your order is paid.", "Merci. Votre commande est payée."},
	"say-captured":     {"You need not do anything more.", "Vous n’avez plus rien à faire."},
	"head-voided":      {"The payment was taken back", "Le paiement a été annulé"},
	"say-voided":       {"Nothing is charged for this order.", "Rien n’est débité pour cette commande."},
	"head-refunded":    {"The payment was refunded", "Le paiement a été remboursé"},
	"say-refunded":     {"What was charged goes back to your card.", "Le montant débité est reversé sur votre carte."},
	"head-unresolved":  {"Your payment is being looked into", "Votre paiement est en cours d’examen"},
	"say-unresolved":   {"Whether it has been charged is not certain yet, and the shop finds out. Do not pay again.", "On ne sait pas encore s’il a été débité, et la boutique le vérifie. Ne payez pas une seconde fois."},

	"office":       {"Back office", "Administration"},
	"log-in":       {"Log in", "Se connecter"},
	"log-out":      {"Log out (%s)", "Se déconnecter (%s)"},
	"operator":     {"Name", "Nom"},
	"password":     {"Password", "Mot de passe"},
	"login-wrong":  {"Name and password do not fit.", "Le nom et le mot de passe ne correspondent pas."},
	"login-wait":   {"Too many attempts. Please wait %d seconds.", "Trop de tentatives. Veuillez attendre %d secondes."},
	"session-over": {"You are not logged in any more. Please log in again.", "Vous n’êtes plus connecté. Veuillez vous reconnecter."},
	"session-over-undone": {
		"You are not logged in any more, and what you asked for was not done. Please log in again.",
		"Vous n’êtes plus connecté, et ce que vous demandiez n’a pas été fait. Veuillez vous reconnecter.",
	},
	"all":            {"All", "Toutes"},
	"show":           {"Show", "Afficher"},
	"older":          {"Older orders", "Commandes plus anciennes"},
	"no-such-orders": {"There are no such orders.", "Il n’y a pas de telles commandes."},
	"authorized":     {"Authorized", "Autorisé"},
	"captured":       {"Captured", "Encaissé"},
	"reference":      {"Reference", "Référence"},
	"waits":          {"%s: the gateway’s answer is awaited.", "%s : la réponse de la passerelle est attendue."},
	"trouble":        {"The last operation did not succeed:", "La dernière opération a échoué :"},
	"do":             {"What can be done", "Opérations possibles"},
	"amount":         {"Amount", "Montant"},
	"last-shipment":  {"This is the last shipment", "C’est le dernier envoi"},
	"go-on":          {"Continue …", "Continuer …"},
	"history":        {"Payment history", "Historique du paiement"},
	"event":          {"Event", "Événement"},
	"detail":         {"Detail", "Détail"},
	"batch-n":        {"Batch %d", "Lot %d"},
	"cancel":         {"Cancel", "Annuler"},
	"batches":        {"Batches", "Lots"},
	"batch-intro":    {"Captures and refunds go into the open batch at the gateway. Closing the batch settles it.", "Les encaissements et les remboursements entrent dans le lot ouvert à la passerelle. La clôture du lot le règle."},
	"batch-number":   {"Batch number", "Numéro du lot"},
	"batch-number-bad": {
		"A batch number is a whole number; closing a batch needs one.", "Un numéro de lot est un nombre entier ; il en faut un pour clore un lot.",
	},
	"gateway-chooses": {"the gateway chooses", "au choix de la passerelle"},
	"gateway-says":    {"The gateway says", "La passerelle répond"},
	"refused":         {"Refused:", "Refusé :"},
	"opened":          {"Opened", "Ouvert"},
	"closed":          {"Closed", "Clos"},
	"totals":          {"Totals", "Totaux"},
	"who-counts":      {"As counted by", "Compté par"},
	"captures":        {"Captures", "Encaissements"},
	"refunds":         {"Refunds", "Remboursements"},
	"gateway":         {"the gateway", "la passerelle"},
	"merchant":        {"this shop", "cette boutique"},

	"action-authorize":    {"Authorize", "Autoriser"},
	"action-capture":      {"Capture", "Encaisser"},
	"action-reverse":      {"Reduce", "Réduire"},
	"action-void":         {"Void", "Annuler"},
	"action-undo-capture": {"Undo the capture", "Annuler l’encaissement"},
	"action-refund":       {"Refund", "Rembourser"},
	"action-undo-refund":  {"Undo the refund", "Annuler le remboursement"},
	"action-ship":         {"Charge a shipment", "Débiter un envoi"},
	"action-charge":       {"Charge the next payment", "Débiter le prochain paiement"},
	"action-batch":        {"Batch", "Lot"},
	"action-batch-show":   {"Show totals", "Voir les totaux"},
	"action-batch-open":   {"Open a batch", "Ouvrir un lot"},
	"action-batch-close":  {"Close a batch", "Clore un lot"},

	"hint-capture":     {"Without an amount, all that is authorized. What is left of the authorization is given up.", "Sans montant, tout ce qui est autorisé. Le reste de l’autorisation est abandonné."},
	"hint-reverse":     {"Lowers the authorization to this amount.", "Réduit l’autorisation à ce montant."},
	"hint-void":        {"Undoes captures whose batch is open, or takes the authorization back.", "Annule les encaissements dont le lot est ouvert, ou retire l’autorisation."},
	"hint-refund":      {"Without an amount, all that was captured.", "Sans montant, tout ce qui a été encaissé."},
	"hint-undo-refund": {"Takes the last refund back.", "Reprend le dernier remboursement."},
	"hint-ship":        {"Authorizes the amount of one shipment.", "Autorise le montant d’un envoi."},
	"hint-charge":      {"Authorizes the next instalment or recurring payment.", "Autorise la prochaine échéance ou le prochain paiement périodique."},
	"hint-batch-show":  {"What the gateway and this shop count.", "Ce que comptent la passerelle et cette boutique."},
	"hint-batch-open":  {"Later captures and refunds go into it.", "Les encaissements et remboursements suivants y entrent."},
	"hint-batch-close": {"Settles it, if the gateway counts what this shop counts.", "Le règle, si la passerelle compte comme cette boutique."},

	"given-up": {"What is left of the authorization is given up.", "Le reste de l’autorisation est abandonné."},
	"void-capture": {
		"The capture is undone, if its batch is open. The authorization stays until it is voided too.",
		"L’encaissement est annulé, si son lot est ouvert. L’autorisation reste jusqu’à ce qu’elle soit annulée aussi.",
	},
	"void-authorization": {"The authorization is taken back. Nothing will be charged.", "L’autorisation est retirée. Rien ne sera débité."},
	"ask-all":            {"%s for order %d?", "%s pour la commande %d ?"},
	"ask-amount":         {"%s %s for order %d?", "%s %s pour la commande %d ?"},
	"ask-batch":          {"%s %d?", "%s %d ?"},
	"ask-no-batch":       {"%s?", "%s ?"},
	"bad-amount":         {"This amount cannot be used", "Ce montant n’est pas utilisable"},
	"bad-amount-text": {
		"Write a number such as 10.50, in the order’s currency.", "Écrivez un nombre tel que 10,50, dans la monnaie de la commande.",
	},
	"not-done":      {"This was not done", "Ceci n’a pas été fait"},
	"not-done-text": {"The order does not allow it now.", "La commande ne le permet pas maintenant."},
	"batch-refused": {"The batch does not allow it now.", "Le lot ne le permet pas maintenant."},
	"form-old":      {"This form is too old", "Ce formulaire est trop ancien"},
	"form-old-text": {"Nothing was done by it. Please begin again.", "Rien n’a été fait. Veuillez recommencer."},

	"event-ordered":    {"Ordered", "Commandé"},
	"event-authorized": {"Authorized", "Autorisé"},
	"event-declined":   {"Not authorized", "Non autorisé"},
	"event-captured":   {"Captured", "Encaissé"},
	"event-refunded":   {"Refunded", "Remboursé"},
	"event-undone":     {"Refund undone", "Remboursement annulé"},
}

// say gives a text in a language. What texts lacks is a mistake of the program, which a test finds.
func (l lang) say(key string, args ...any) string {
	t, ok := texts[key]
	if !ok {
		return "[" + key + "]"
	}
	if len(args) == 0 {
		return t[l]
	}
	return fmt.Sprintf(t[l], args...)
}

// money writes an amount with its currency.
func (l lang) money(m merchant.Money) string { return l.sum(m.String() + " " + m.Currency) }

// sum writes an amount of which the digits and the currency are given.
func (l lang) sum(text string) string {
	if l == french {
		text = strings.Replace(text, ".", ",", 1)
	}
	return strings.Replace(text, " ", "\u00a0", 1)
}

func (l lang) when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// terms tells a customer how an order is paid.
func (l lang) terms(t merchant.Terms) string {
	var n int
	var day string
	if t == "split" {
		return l.say("terms-split")
	}
	if _, err := fmt.Sscanf(string(t), "install %d", &n); err == nil {
		return l.say("terms-install", n)
	}
	if _, err := fmt.Sscanf(string(t), "recur %d %s", &n, &day); err == nil {
		if last, err := time.Parse("20060102", day); err == nil {
			return l.say("terms-recur", n, last.Format(time.DateOnly))
		}
	}
	return string(t)
}
