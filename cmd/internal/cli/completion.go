package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	urfave "github.com/urfave/cli/v2"
)

// completions are scripts that have a shell ask a command what may come next. A word that begins with a dash is
// passed on, for only then the answer has flags; two dashes alone would end the flags.
var completions = map[string]string{
	"bash": `FUNCTION() {
  local cur=${COMP_WORDS[COMP_CWORD]} asked=("${COMP_WORDS[@]:0:COMP_CWORD}")
  case $cur in
    --) asked+=(-) ;;
    -*) asked+=("$cur") ;;
  esac
  COMPREPLY=($(compgen -W "$("${asked[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o default -F FUNCTION COMMAND
`,
	"zsh": `#compdef COMMAND
FUNCTION() {
  local -a asked found
  asked=("${(@)words[1,CURRENT-1]}")
  case $words[CURRENT] in
    --) asked+=(-) ;;
    -*) asked+=("$words[CURRENT]") ;;
  esac
  found=("${(@f)$("${(@)asked}" --generate-bash-completion 2>/dev/null)}")
  found=(${found:#})
  if (( $#found )); then compadd -- $found; else _files; fi
}
compdef FUNCTION COMMAND
`,
	"fish": `function FUNCTION
  set -l asked (commandline -opc)
  set -l cur (commandline -ct)
  switch $cur
    case --
      set -a asked -
    case '-*'
      set -a asked $cur
  end
  $asked --generate-bash-completion 2>/dev/null
end
complete -c COMMAND -f -n 'count (FUNCTION) >/dev/null' -a '(FUNCTION)'
`,
}

func completionCommand(app string) *urfave.Command {
	shells := slices.Sorted(maps.Keys(completions))
	return &urfave.Command{
		Name:      "completion",
		Usage:     "print the script by which a shell completes this command",
		ArgsUsage: strings.Join(shells, "|"),
		Description: "Examples: source <(" + app + " completion bash)\n" +
			"          " + app + " completion fish > ~/.config/fish/completions/" + app + ".fish",
		Action: func(c *urfave.Context) error {
			script, known := completions[c.Args().First()]
			if !known || c.NArg() != 1 {
				return Usage(fmt.Errorf("name one shell: %s", strings.Join(shells, ", ")))
			}
			function := "_" + strings.ReplaceAll(app, "-", "_")
			_, err := io.WriteString(c.App.Writer, strings.NewReplacer("FUNCTION", function, "COMMAND", app).Replace(script))
			return err
		},
	}
}
