package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

// exitPipe is the exit code when the reader of our output has gone: what a
// shell reports of a program that SIGPIPE ended.
const exitPipe = 128 + 13

// nextSteps are the hints of errors that bring none of their own.
var nextSteps = map[kassett.Kind]string{
	kassett.Other:         "run the command again with -v; if it fails the same way, report the two lines above",
	kassett.Invalid:       "look at the command's --help",
	kassett.Incomplete:    "look at what was named above, mend it, and run the command again",
	kassett.Corrupt:       "run kassett check --read-data to see how much is damaged, then restore from another copy or repair",
	kassett.Exists:        "choose another place, or use what is there",
	kassett.Full:          "free some room or use another disk, then run the command again",
	kassett.Denied:        "check owner and mode of what is named, or run as a user who may",
	kassett.Offline:       "check that the disk, share or machine is there, then run the command again",
	kassett.Held:          "kassett hold list and kassett floor list show what protects it and what would lift it",
	kassett.NotFound:      "check the name; kassett snapshots lists what is kept",
	kassett.Locked:        "wait until the other run has ended, or use --retry-lock 10m; if none runs, kassett unlock",
	kassett.WrongPassword: "check the password and that this is the right repository",
	kassett.Interrupted:   "run the same command again when you are ready",
}

// report tells the user of the error that ended the command, and returns the
// exit code. When a signal ended ctx, that is the reason whatever err says.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, errNoReader) {
		return exitPipe
	}
	kind, hint := kassett.KindOf(err), kassett.HintOf(err)
	if kind == kassett.Other && errors.Is(err, syscall.ENOSPC) { // of stdout, or of a file we write
		kind = kassett.Full
	}
	text := err.Error()
	if ctx.Err() != nil {
		kind, hint, text = kassett.Interrupted, a.afterStop(err), "stopped"
	}
	var local *fs.PathError
	if hint == "" && kind == kassett.NotFound && errors.As(err, &local) {
		hint = "check the name: no such file is on this machine"
	}
	if hint == "" {
		hint = nextSteps[kind]
	}
	text, hint = oneLine(text), oneLine(hint)
	if a.flags.json {
		line, _ := json.Marshal(struct {
			MessageType string `json:"message_type"`
			Code        int    `json:"code"`
			Kind        string `json:"kind"`
			Message     string `json:"message"`
			Next        string `json:"next"`
		}{"exit_error", kind.Exit(), kind.String(), text, hint})
		a.ui.Line(string(line))
		return kind.Exit()
	}
	a.ui.Line("kassett: error: " + text)
	a.ui.Line("kassett: next: " + hint)
	return kind.Exit()
}

// afterStop is the hint after a signal: what a command says of its own stop,
// else the general one.
func (a *app) afterStop(err error) string {
	var e *kassett.Error
	if errors.As(err, &e) && e.Kind == kassett.Interrupted {
		return e.Hint
	}
	return ""
}

// warn names a problem that does not end the command.
func (a *app) warn(what string, err error) {
	if a.flags.json {
		line, _ := json.Marshal(struct {
			MessageType string            `json:"message_type"`
			Error       map[string]string `json:"error"`
			Item        string            `json:"item"`
			Next        string            `json:"next,omitempty"`
		}{"error", map[string]string{"message": err.Error()}, what, kassett.HintOf(err)})
		a.ui.Line(string(line))
		return
	}
	text := terminal.Safe(what)
	if what != "" {
		text += ": "
	}
	a.ui.Line("kassett: warning: " + text + oneLine(err.Error()))
	if hint := kassett.HintOf(err); hint != "" {
		a.ui.Line("kassett: next: " + oneLine(hint))
	}
}

// oneLine makes a text one safe line: joined errors come on several.
func oneLine(s string) string {
	return terminal.Safe(strings.ReplaceAll(strings.TrimSpace(s), "\n", "; "))
}

// notice names something worth knowing by which nothing is lost.
func (a *app) notice(what string, err error) {
	if a.flags.quiet {
		return
	}
	if a.flags.json {
		line, _ := json.Marshal(struct {
			MessageType string `json:"message_type"`
			Item        string `json:"item,omitempty"`
			Message     string `json:"message"`
		}{"note", what, err.Error()})
		a.ui.Line(string(line))
		return
	}
	if what != "" {
		what = terminal.Safe(what) + ": "
	}
	a.ui.Line("kassett: note: " + what + oneLine(err.Error()))
}
