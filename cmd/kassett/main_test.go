package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"kassett/cmd/kassett/clinic"
	"kassett/repo"
)

// TestMain makes this test binary the program under test: scripts and tests
// that start "kassett" start it, with keys that cost little.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"kassett": func() {
			ctx, stop := untilSignal(context.Background())
			e := systemEnv()
			e.scrypt = repo.Scrypt{N: 1 << 10, R: 1, P: 1}
			code := run(ctx, e)
			stop()
			os.Exit(code)
		},
	})
}

// TestScripts runs the scripts in testdata/script, each in a folder of its own
// with a repository named in its environment.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TZ", "UTC")
			e.Setenv("KASSETT_CACHE_DIR", filepath.Join(e.WorkDir, ".cache"))
			e.Setenv("KASSETT_REPOSITORY", filepath.Join(e.WorkDir, "repo"))
			e.Setenv("KASSETT_PASSWORD", "correct horse")
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "restic", "par2":
				_, err := exec.LookPath(name)
				if err != nil && os.Getenv("SHORT") != "1" {
					return false, errors.New(name + " is not installed; make deps installs it, SHORT=1 leaves it out")
				}
				return err == nil, nil
			case "root":
				return os.Getuid() == 0, nil
			}
			return false, errors.New("unknown condition " + name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"restic": runRestic,
			"flip":   flipByte,
			"exits":  exits,
			"same":   same,
			"take":   take,
		},
	})
}

// runRestic runs stock restic on a repository: restic REPO ARGS...
func runRestic(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv("RESTIC_REPOSITORY", ts.MkAbs(args[0]))
	ts.Setenv("RESTIC_PASSWORD", ts.Getenv("KASSETT_PASSWORD"))
	ts.Setenv("RESTIC_CACHE_DIR", ts.MkAbs(".restic"))
	err := ts.Exec("restic", args[1:]...)
	for _, name := range []string{"RESTIC_REPOSITORY", "RESTIC_PASSWORD"} {
		ts.Setenv(name, "")
	}
	if err == nil == neg {
		ts.Fatalf("restic %v: %v", args[1:], err)
	}
}

// flipByte turns a bit over in the middle of the first file that a pattern
// matches: flip PATTERN.
func flipByte(ts *testscript.TestScript, _ bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("no file matches %s", args[0])
	}
	b, err := os.ReadFile(found[0])
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.Chmod(found[0], 0o600))
	ts.Check(os.WriteFile(found[0], b, 0o600))
}

// exits runs kassett and compares its exit code: exits CODE ARGS...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("kassett", args[1:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// take puts what a pattern's group matches in the last standard output into a
// variable: take NAME PATTERN.
func take(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("%s does not match once with a group", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// same compares two folders by what the system says of them: same A B.
func same(ts *testscript.TestScript, _ bool, args []string) {
	a, err := clinic.Read(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := clinic.Read(ts.MkAbs(args[1]))
	ts.Check(err)
	for _, d := range a.Compare(b) {
		ts.Logf("%s", d)
	}
	if len(a) == 0 || len(a.Compare(b)) > 0 {
		ts.Fatalf("%s and %s are not the same", args[0], args[1])
	}
}
