package repo_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kassett/repo"
	"kassett/storage/local"
)

// holdVariable makes the test binary a process that locks the repository in the
// folder it names, exclusively, says so, and waits to be killed.
const holdVariable = "KASSETT_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdVariable); dir != "" {
		if err := hold(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	// The first use of signals starts a goroutine of the runtime that never
	// ends; it must not be started within a synctest bubble.
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	signal.Stop(c)
	goleak.VerifyTestMain(m)
}

func hold(dir string) error {
	st, err := local.Open(dir)
	if err != nil {
		return err
	}
	r, err := repo.Open(context.Background(), st, []byte(password), repo.Options{})
	if err != nil {
		return err
	}
	_, _, err = r.Lock(context.Background(), repo.Exclusive, repo.LockOptions{})
	fmt.Println("locked")
	return err
}

// startHolder starts a process that holds the repository exclusively.
func startHolder(t testing.TB, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), holdVariable+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "locked" {
		t.Fatalf("holder says %q, %v", line, err)
	}
	return cmd
}
