package clinic

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

func (d *Demo) open(ctx context.Context) (what, result string, err error) {
	if d.counts, err = Make(ctx, d.clinic); err != nil {
		return "", "", err
	}
	d.first, err = Read(d.clinic)
	c := d.counts
	what = fmt.Sprintf("%s of this machine,\nrecords of %s, invented,\nwith names in five scripts", terminal.Plural(c.Real, "file", "files"), terminal.Plural(c.Patients, "patient", "patients"))
	return what, fmt.Sprintf("%s, %s\n%s, %s,\n%s, 1 sparse file", terminal.Plural(c.Files, "file", "files"), terminal.Bytes(c.Bytes),
		terminal.Plural(c.HardLinks, "hard link", "hard links"), terminal.Plural(c.Symlinks, "symbolic link", "symbolic links"),
		terminal.Plural(c.Xattrs, "extended attribute", "extended attributes")), err
}

func (d *Demo) makeRepository(ctx context.Context) (what, result string, err error) {
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails: it ends the program instead
	if err := os.WriteFile(d.PasswordFile(), []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
		return "", "", err
	}
	return "kassett init", "encrypted, with a password nobody else has", d.must(ctx, nil, "init")
}

// backedUp is what kassett backup says at its end.
type backedUp struct {
	SnapshotID          string `json:"snapshot_id"`
	FilesNew            uint64 `json:"files_new"`
	FilesChanged        uint64 `json:"files_changed"`
	FilesUnmodified     uint64 `json:"files_unmodified"`
	DataAddedPacked     uint64 `json:"data_added_packed"`
	TotalBytesProcessed uint64 `json:"total_bytes_processed"`
}

func (d *Demo) backup(ctx context.Context, tag string) (backedUp, error) {
	var res backedUp
	if err := d.must(ctx, &res, "backup", "--host", "demo-clinic", "--tag", tag, d.clinic); err != nil {
		return res, err
	}
	if res.SnapshotID == "" || res.TotalBytesProcessed == 0 {
		return res, errors.New("the backup says of no snapshot")
	}
	return res, nil
}

func (d *Demo) backupFirst(ctx context.Context) (what, result string, err error) {
	res, err := d.backup(ctx, "monday")
	if err != nil {
		return "kassett backup", "", err
	}
	d.firstID = res.SnapshotID
	return "kassett backup", fmt.Sprintf("%s saved,\nstored as %s", terminal.Bytes(int64(res.TotalBytesProcessed)), terminal.Bytes(int64(res.DataAddedPacked))), nil //nolint:gosec // a display
}

func (d *Demo) change(ctx context.Context) (what, result string, err error) {
	c, err := Change(ctx, d.clinic)
	return "journals go on, files are deleted;\nthen someone encrypts the images",
		fmt.Sprintf("%s edited, %s new, %s deleted,\n%s made unreadable", terminal.Count(c.Edited), terminal.Count(c.Added), terminal.Count(c.Deleted), terminal.Count(c.Ransomed)), err
}

func (d *Demo) backupSecond(ctx context.Context) (what, result string, err error) {
	res, err := d.backup(ctx, "tuesday")
	if err != nil {
		return "kassett backup", "", err
	}
	d.badID = res.SnapshotID
	if res.FilesUnmodified == 0 || res.FilesNew == 0 {
		return "kassett backup", "", errors.New("the backup saw no unmodified or no new file")
	}
	return "kassett backup", fmt.Sprintf("%s not read again;\n%s new or changed, stored as %s", terminal.Plural(res.FilesUnmodified, "file", "files"),
		terminal.Count(res.FilesNew+res.FilesChanged), terminal.Bytes(int64(res.DataAddedPacked))), nil //nolint:gosec // a display
}

func (d *Demo) check(ctx context.Context) (what, result string, err error) {
	var res struct {
		Errors   int    `json:"num_errors"`
		ReadData string `json:"read_data"`
	}
	if err := d.must(ctx, &res, "check", "--read-data"); err != nil {
		return "kassett check --read-data", "", err
	}
	if res.Errors != 0 || res.ReadData != "all" {
		return "kassett check --read-data", "", fmt.Errorf("%d faults, read %s", res.Errors, res.ReadData)
	}
	return "kassett check --read-data", "every stored byte was read: no faults", nil
}

func (d *Demo) restore(ctx context.Context) (what, result string, err error) {
	var res struct {
		Bytes uint64 `json:"bytes_restored"`
	}
	if err := d.must(ctx, &res, "restore", d.inSnapshot(), "--target", filepath.Join(d.dir, "back"), "--verify"); err != nil {
		return "kassett restore --verify", "", err
	}
	return "kassett restore --verify", fmt.Sprintf("%s in an empty folder", terminal.Bytes(int64(res.Bytes))), nil //nolint:gosec // a display
}

// inSnapshot names the clinic's folder in Monday's snapshot.
func (d *Demo) inSnapshot() string {
	abs, _ := filepath.Abs(d.clinic)
	if vol := filepath.VolumeName(abs); vol != "" { // as restic, C: is the folder C
		abs = strings.TrimSuffix(vol, ":") + abs[len(vol):]
	}
	return d.firstID + ":" + filepath.ToSlash(abs)
}

func (d *Demo) compare(context.Context) (what, result string, err error) {
	err = d.same(filepath.Join(d.dir, "back"), &result, d.first)
	return "Monday's clinic with what came back", result, err
}

// same compares a folder with a manifest and says so.
func (d *Demo) same(dir string, result *string, want Manifest) error {
	back, err := Read(dir)
	if err != nil {
		return err
	}
	if diff := want.Compare(back); len(diff) > 0 {
		return fmt.Errorf("%d differences, the first is: %s", len(diff), diff[0])
	}
	*result = fmt.Sprintf("%s equal: content, mode,\nowner, time, links, attributes", terminal.Plural(len(back), "entry", "entries"))
	return nil
}

func (d *Demo) askRestic(ctx context.Context) (what, result string, err error) {
	what = "restic check --read-data,\nrestic restore"
	program, _ := exec.LookPath("restic")
	if program == "" {
		d.skipped = append(d.skipped, "stock restic, which is not installed here")
		return what, "not asked: restic is not installed here", nil
	}
	run := func(words ...string) (string, error) {
		cmd := exec.CommandContext(ctx, program, append([]string{
			"--repo", d.repo, "--password-file", d.PasswordFile(), "--cache-dir", filepath.Join(d.dir, "restic-cache"),
		}, words...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("restic %s: %w: %s", words[0], err, out)
		}
		return strings.TrimSpace(string(out)), nil
	}
	version, err := run("version")
	if err != nil {
		return what, "", err
	}
	if _, err := run("check", "--read-data"); err != nil {
		return what, "", err
	}
	to := filepath.Join(d.dir, "restic-back")
	if _, err := run("restore", d.firstID, "--target", to); err != nil {
		return what, "", err
	}
	sub := strings.SplitN(d.inSnapshot(), ":", 2)[1]
	// Old restics fill holes with zeros; the content is the same.
	if err := d.same(filepath.Join(to, filepath.FromSlash(sub)), &result, d.first.WithoutHoles()); err != nil {
		return what, "", err
	}
	words := strings.Fields(version)
	return what, strings.Join(words[:min(2, len(words))], " ") + " finds no fault\nand restores the same", nil
}

func (d *Demo) damage(ctx context.Context) (what, result string, err error) {
	what = "one bit turned over in a copy,\nkassett check --read-data"
	copied := filepath.Join(d.dir, "damaged")
	if err := os.CopyFS(copied, os.DirFS(d.repo)); err != nil {
		return what, "", err
	}
	packs, err := filepath.Glob(filepath.Join(copied, "data", "*", "*"))
	if err != nil || len(packs) == 0 {
		return what, "", errors.Join(errors.New("there is no pack to damage"), err)
	}
	b, err := os.ReadFile(packs[0])
	if err != nil {
		return what, "", err
	}
	b[len(b)/3] ^= 0x10
	if err := errors.Join(os.Remove(packs[0]), os.WriteFile(packs[0], b, 0o600)); err != nil {
		return what, "", err
	}
	got := d.run(ctx, copied, "check", "--read-data")
	name := filepath.Base(packs[0])
	if got.Code != kassett.Corrupt.Exit() || !strings.Contains(got.Stderr, name) {
		return what, "", fmt.Errorf("exit code %d, and pack %s is not named: %s", got.Code, name, got.Stderr)
	}
	return what, fmt.Sprintf("found, pack %.8s… named (exit code %d)", name, got.Code), nil
}

func (d *Demo) hold(ctx context.Context) (what, result string, err error) {
	what = "kassett hold add Monday,\nkassett forget Monday"
	if err := d.must(ctx, nil, "hold", "add", d.firstID, "--reason", "the inquiry into the ransom", "--by", "Kari Demo"); err != nil {
		return what, "", err
	}
	got := d.run(ctx, d.repo, "forget", d.firstID)
	if got.Code != kassett.Held.Exit() {
		return what, "", fmt.Errorf("forget of a held snapshot ended with exit code %d: %s", got.Code, got.Stderr)
	}
	return what, fmt.Sprintf("refused, with the reason (exit code %d)", got.Code), nil
}

func (d *Demo) mend(ctx context.Context) (what, result string, err error) {
	what = "kassett restore Monday over what\nthe ransom left, compare"
	err = d.must(ctx, nil, "restore", d.inSnapshot(), "--target", d.clinic, "--delete", "--verify")
	if err == nil {
		err = d.same(d.clinic, &result, d.first)
	}
	return what, result, err
}

func (d *Demo) backupThird(ctx context.Context) (what, result string, err error) {
	res, err := d.backup(ctx, "wednesday")
	if err != nil {
		return "kassett backup", "", err
	}
	if res.DataAddedPacked > res.TotalBytesProcessed/20 {
		return "kassett backup", "", fmt.Errorf("%d bytes were stored, though nearly all were there", res.DataAddedPacked)
	}
	return "kassett backup", fmt.Sprintf("nearly all was there already:\nstored as %s", terminal.Bytes(int64(res.DataAddedPacked))), nil //nolint:gosec // a display
}

func (d *Demo) forget(ctx context.Context) (what, result string, err error) {
	what = "kassett forget Tuesday --prune,\nkassett check --read-data"
	before := folderSize(d.repo)
	if err := d.must(ctx, nil, "forget", d.badID, "--prune", "--max-unused", "0"); err != nil {
		return what, "", err
	}
	after := folderSize(d.repo)
	if after >= before {
		return what, "", fmt.Errorf("the repository has %d bytes, it had %d", after, before)
	}
	if _, _, err := d.check(ctx); err != nil {
		return what, "", err
	}
	return what, fmt.Sprintf("%s given back, %s left,\nno faults", terminal.Bytes(before-after), terminal.Bytes(after)), nil
}

// folderSize sums the files below dir.
func folderSize(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil //nolint:nilerr // what is gone has no size
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}
