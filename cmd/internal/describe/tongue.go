package describe

// Tongue says something to a person in another language than English. The nil one is English.
type Tongue func(english string) string

// Say gives a text in the language.
func (t Tongue) Say(english string) string {
	if t == nil || english == "" {
		return english
	}
	return t(english)
}
