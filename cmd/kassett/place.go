package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"unicode/utf16"

	"github.com/spf13/pflag"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

// place says where a repository is and how it opens, as flags give it. What
// the flags leave open, the environment says.
type place struct {
	repo, repoFile                string
	passwordFile, passwordCommand string
	keyHint                       string
	prefix                        string // of the variables, between KASSETT_ and the name: "" or "FROM_"
}

// maxSecret bounds what is read as a password or a repository's place.
const maxSecret = 64 << 10

// flag returns the name of a flag of p, for messages.
func (p place) flag(name string) string {
	return "--" + strings.ToLower(strings.ReplaceAll(p.prefix, "_", "-")) + name
}

// register adds the flags of a second place, such as --from-repo.
func (p *place) register(f *pflag.FlagSet) {
	name := func(s string) string { return strings.TrimPrefix(p.flag(s), "--") }
	f.StringVar(&p.repo, name("repo"), "", "the other `repository` (default: $KASSETT_"+p.prefix+"REPOSITORY)")
	f.StringVar(&p.repoFile, name("repository-file"), "", "read the other repository's place from `file` (default: $KASSETT_"+p.prefix+"REPOSITORY_FILE)")
	f.StringVar(&p.passwordFile, name("password-file"), "", "read its password from `file` (default: $KASSETT_"+p.prefix+"PASSWORD_FILE)")
	f.StringVar(&p.passwordCommand, name("password-command"), "", "run `command` and read its password from the output (default: $KASSETT_"+p.prefix+"PASSWORD_COMMAND)")
	f.StringVar(&p.keyHint, name("key-hint"), "", "try the key with this `ID` first (default: $KASSETT_"+p.prefix+"KEY_HINT)")
}

// location returns where the repository is.
func (a *app) location(p place) (string, error) {
	repo, file := p.repo, p.repoFile
	if repo == "" && file == "" {
		repo, file = a.getenv(envPrefix+p.prefix+"REPOSITORY"), a.getenv(envPrefix+p.prefix+"REPOSITORY_FILE")
	}
	switch {
	case repo != "" && file != "":
		return "", invalid("open repository", "", "give only one of "+p.flag("repo")+" and "+p.flag("repository-file"),
			errors.New("two places are named"))
	case file != "":
		text, err := readSmall(file)
		if err != nil {
			return "", fmt.Errorf("read the repository's place: %w", err)
		}
		if repo = strings.TrimSpace(string(text)); repo == "" {
			return "", invalid("read the repository's place from", file, "write the place into the file, on one line", errors.New("the file is empty"))
		}
	case repo == "":
		return "", invalid("open repository", "", a.unnamed(p, "REPOSITORY", "give it with "+p.flag("repo")+" or $KASSETT_"+p.prefix+"REPOSITORY"),
			errors.New("no repository is named"))
	}
	return repo, nil
}

// unnamed is the hint for something missing, which says so when restic's
// variable for it is set: it is not taken silently, since it may name
// another repository or another password.
func (a *app) unnamed(p place, name, hint string) string {
	for _, suffix := range []string{"", "_FILE", "_COMMAND"} {
		if theirs := "RESTIC_" + p.prefix + name + suffix; a.getenv(theirs) != "" {
			return fmt.Sprintf("%s is set, but Kassett reads KASSETT_%s%s%s: set that one too", theirs, p.prefix, name, suffix)
		}
	}
	return hint
}

// password returns the password that opens the repository at p.
func (a *app) password(ctx context.Context, p place) ([]byte, error) {
	if pw, err := a.givenPassword(ctx, p); pw != nil || err != nil {
		return pw, err
	}
	if a.stdinTerminal {
		return a.ask(ctx, "password of the repository: ")
	}
	return nil, invalid("read password", "", a.unnamed(p, "PASSWORD", "give it with "+p.flag("password-file")+", $KASSETT_"+p.prefix+"PASSWORD_FILE or $KASSETT_"+p.prefix+"PASSWORD_COMMAND"),
		errors.New("no password is named and there is no terminal to ask at"))
}

// firstPassword returns the password of a repository to be made at p. Nobody
// can check it yet, so it is typed twice.
func (a *app) firstPassword(ctx context.Context, p place) ([]byte, error) {
	if pw, err := a.givenPassword(ctx, p); pw != nil || err != nil {
		return pw, err
	}
	if a.stdinTerminal {
		return a.askTwice(ctx, "password of the new repository: ")
	}
	return a.password(ctx, p) // which says what is missing
}

// givenPassword returns the password that flags or environment name, or nil.
func (a *app) givenPassword(ctx context.Context, p place) ([]byte, error) {
	file, command := p.passwordFile, p.passwordCommand
	if file == "" && command == "" {
		if pw := a.getenv(envPrefix + p.prefix + "PASSWORD"); pw != "" {
			return []byte(pw), nil
		}
		file, command = a.getenv(envPrefix+p.prefix+"PASSWORD_FILE"), a.getenv(envPrefix+p.prefix+"PASSWORD_COMMAND")
	}
	return passwordFrom(ctx, file, command, p.flag("password-file"), p.flag("password-command"))
}

// passwordFrom reads a password from a file or from what a command prints, or
// returns nil when neither is named. The last two name the flags.
func passwordFrom(ctx context.Context, file, command, fileFlag, commandFlag string) ([]byte, error) {
	switch {
	case file != "" && command != "":
		return nil, invalid("read password", "", "give only one of "+fileFlag+" and "+commandFlag, errors.New("two ways are named"))
	case file != "":
		return passwordFromFile(file)
	case command != "":
		return passwordFromCommand(ctx, command)
	}
	return nil, nil
}

// newPassword returns the password of a key to be made: from the file or the
// command if one is named, else from the terminal, typed twice.
func (a *app) newPassword(ctx context.Context, file, command string) ([]byte, error) {
	if pw, err := passwordFrom(ctx, file, command, "--new-password-file", "--new-password-command"); pw != nil || err != nil {
		return pw, err
	}
	if !a.stdinTerminal {
		return nil, invalid("read new password", "", "give it with --new-password-file", errors.New("there is no terminal to ask at"))
	}
	return a.askTwice(ctx, "new password: ")
}

// askTwice asks for a password that nobody can check yet.
func (a *app) askTwice(ctx context.Context, prompt string) ([]byte, error) {
	first, err := a.ask(ctx, prompt)
	if err != nil {
		return nil, err
	}
	again, err := a.ask(ctx, "the same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, again) {
		return nil, errNotSame
	}
	return first, nil
}

var errNotSame = invalid("read password", "", "run the command again and type the same password twice", errors.New("the two are not the same"))

// ask reads one line from the terminal without showing it.
func (a *app) ask(ctx context.Context, prompt string) ([]byte, error) {
	a.ui.Prompt(prompt)
	line, err := a.readPassword(ctx)
	a.ui.Prompt("\n")
	if err != nil {
		return nil, fmt.Errorf("read password from the terminal: %w", err)
	}
	return notEmpty(line)
}

func passwordFromFile(name string) ([]byte, error) {
	text, err := readSmall(name)
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return notEmpty(bytes.TrimSpace(fromBOM(text)))
}

// passwordFromCommand runs a program without a shell. It inherits an
// environment in which nothing of ours is left.
func passwordFromCommand(ctx context.Context, line string) ([]byte, error) {
	words, err := splitWords(line)
	if err != nil || len(words) == 0 {
		return nil, invalid("run password command", "", "write it as a program with arguments; quote words that hold spaces", err)
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, &kassett.Error{
			Op: "run password command", What: terminal.Safe(words[0]), Kind: kassett.Invalid, Err: err,
			Hint: "run the command by hand: it must print the password and end with exit code 0",
		}
	}
	if len(out) > maxSecret {
		return nil, invalid("run password command", terminal.Safe(words[0]), "it must print the password and nothing else", errors.New("it printed too much"))
	}
	return notEmpty(bytes.TrimSpace(out))
}

func notEmpty(pw []byte) ([]byte, error) {
	if len(pw) == 0 {
		return nil, invalid("read password", "", "give a password that is not empty", errors.New("it is empty"))
	}
	return pw, nil
}

// readSmall reads a file that must be small.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(text) > maxSecret {
		err = invalid("read", name, "name the file that holds one line", errors.New("the file is too large"))
	}
	return text, err
}

// fromBOM takes a byte order mark off and decodes UTF-16, which Windows
// PowerShell writes.
func fromBOM(b []byte) []byte {
	if rest, ok := bytes.CutPrefix(b, []byte("\xef\xbb\xbf")); ok {
		return rest
	}
	hi, lo := 1, 0
	rest, ok := bytes.CutPrefix(b, []byte("\xff\xfe"))
	if !ok {
		if rest, ok = bytes.CutPrefix(b, []byte("\xfe\xff")); !ok {
			return b
		}
		hi, lo = 0, 1
	}
	units := make([]uint16, 0, len(rest)/2)
	for ; len(rest) >= 2; rest = rest[2:] {
		units = append(units, uint16(rest[hi])<<8|uint16(rest[lo]))
	}
	return []byte(string(utf16.Decode(units)))
}

// splitWords splits a command line at spaces. Single quotes keep everything,
// double quotes keep everything but \", and outside of quotes a backslash keeps
// a space or a quote; any other backslash stands for itself, so that Windows
// paths need no doubling.
func splitWords(line string) ([]string, error) {
	var words []string
	var word []byte
	open, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(line) && escapable(line[i+1], quote):
			i++
			word, open = append(word, line[i]), true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word = append(word, c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if open {
				words, word, open = append(words, string(word)), word[:0], false
			}
		default:
			word, open = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		words = append(words, string(word))
	}
	return words, nil
}

func escapable(c, quote byte) bool {
	return c == '"' || quote == 0 && (c == ' ' || c == '\'')
}
