// Package clinic is the demonstration: a small invented clinic on disk, its days,
// a ransom among them, and proofs that kassett gives back what was lost. It runs
// kassett as a user would, describes folders in the system's own words, and
// shares no code with the engine that it judges.
package clinic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkg/xattr"
)

// Bounds of the invented clinic.
const (
	patients    = 120
	pictures    = 48
	realBytes   = 24 << 20 // bytes of real files at most
	realEach    = 2 << 20  // bytes of one of them at most
	sparseBytes = 64 << 20 // bytes, nearly all of them hole
)

// Names of the invented patients, in five scripts. Any likeness to persons is
// chance; the ids begin with DEMO so that nobody takes them for real ones.
var names = []string{
	"Åse Bjørnstad", "Øyvind Sælen", "Märta Sjöström", "Göran Åkerlund", "Łucja Wiśniewska", "Żaneta Gąsior",
	"欧阳晓明", "司徒静宜", "諸葛雪梅", "Светлана Щукина", "Ёлка Жуковская", "Αλεξάνδρα Ψυχογιού", "Ιωάννης Ξανθός", "أحمد الحسيني", "فاطمة القاسم",
}

// Counts is what was made.
type Counts struct {
	Files, Real, Patients, HardLinks, Symlinks, Xattrs int
	Bytes                                              int64 // of all files
}

// maker makes the clinic. Its random numbers are the same each time.
type maker struct {
	dir    string
	random *rand.Rand
	counts Counts
	days   int // how many days the files' times lie back, counting on
}

// Make makes the clinic in a folder, the same one each time but for files of this
// machine.
func Make(ctx context.Context, dir string) (Counts, error) {
	m := &maker{dir: dir, random: rand.New(rand.NewPCG(20, 26))} //nolint:gosec // invented data, not a secret
	for _, step := range []func(context.Context) error{m.realFiles, m.records, m.images, m.links, m.sparse} {
		if err := step(ctx); err != nil {
			return m.counts, fmt.Errorf("make the clinic: %w", err)
		}
	}
	return m.counts, nil
}

// write makes one file with a time of its own.
func (m *maker) write(name string, content []byte, mode fs.FileMode) error {
	path := filepath.Join(m.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		return err
	}
	m.counts.Files++
	m.counts.Bytes += int64(len(content))
	m.days++
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC).Add(-time.Duration(m.days) * 7 * time.Hour)
	return os.Chtimes(path, at, at)
}

// realFiles copies files of this machine that everyone may read.
func (m *maker) realFiles(ctx context.Context) error {
	left := int64(realBytes)
	for _, root := range []string{"/usr/share/doc", "/etc", `C:\Windows\Help`, `C:\Windows\Web`} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if left <= 0 {
				return fs.SkipAll
			}
			if err != nil || !e.Type().IsRegular() {
				return nil //nolint:nilerr // what may not be read is left out
			}
			info, err := e.Info()
			if err != nil || info.Size() > min(left, realEach) || info.Mode()&0o004 == 0 {
				return nil //nolint:nilerr // the same
			}
			b, err := os.ReadFile(path) //nolint:gosec // below a folder everyone may read
			if err != nil {
				return nil //nolint:nilerr // the same
			}
			left -= int64(len(b))
			m.counts.Real++
			rel := strings.TrimPrefix(filepath.ToSlash(strings.TrimPrefix(path, filepath.VolumeName(path))), "/")
			return m.write("server/"+rel, b, info.Mode().Perm()|0o600)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// records writes journals and laboratory results.
func (m *maker) records(ctx context.Context) error {
	words := strings.Fields("control blood pressure stable cough fever since three days advised rest " +
		"kontroll blodtrykk stabilt hoste feber resept fornyet badanie kontrolne ciśnienie stabilne 复查 血压 稳定 咳嗽 发热 休息")
	m.counts.Patients = patients
	for i := range patients {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := names[i%len(names)]
		folder := fmt.Sprintf("journal/%d/DEMO-%06d %s", 2019+i%7, 100000+i*37, name)
		for visit := range 6 + i%5 {
			var b strings.Builder
			fmt.Fprintf(&b, "Patient: %s\nId: DEMO-%06d (invented)\nVisit: %d\n\n", name, 100000+i*37, visit+1)
			for range 60 + m.random.IntN(400) {
				b.WriteString(words[m.random.IntN(len(words))] + " ")
			}
			if err := m.write(fmt.Sprintf("%s/visit %02d.txt", folder, visit+1), []byte(b.String()), 0o640); err != nil {
				return err
			}
		}
		var lab strings.Builder
		lab.WriteString("time;test;value;unit\n")
		for day := range 80 {
			for _, test := range []string{"Hb", "CRP", "K", "Na", "Glucose"} {
				fmt.Fprintf(&lab, "2025-%02d-%02dT08:15:00Z;%s;%.1f;x\n", 1+day/28, 1+day%28, test, m.random.Float64()*140)
			}
		}
		if err := m.write(fmt.Sprintf("laboratory/DEMO-%06d.csv", 100000+i*37), []byte(lab.String()), 0o640); err != nil {
			return err
		}
	}
	return nil
}

// images writes grey pictures with the noise of an X-ray detector, as portable
// greymaps of 512 × 512.
func (m *maker) images(ctx context.Context) error {
	const side = 512
	for i := range pictures {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := fmt.Appendf(nil, "P5\n# DEMO-%06d, invented\n%d %d\n255\n", 100000+i*37, side, side)
		for y := range side {
			for x := range side {
				dx, dy := x-side/2, y-side/2
				shade := 220 - (dx*dx+dy*dy)*180/(side*side/2)
				b = append(b, byte(shade+m.random.IntN(24))) //nolint:gosec // 40 to 243
			}
		}
		if err := m.write(fmt.Sprintf("images/%s/DEMO-%06d-%02d.pgm", names[i%len(names)], 100000+i*37, i), b, 0o440); err != nil {
			return err
		}
	}
	return nil
}

// links adds hard links, symbolic links, empty things and attributes, as far as
// the file system has them.
func (m *maker) links(context.Context) error {
	if err := errors.Join(m.write("journal/empty.txt", nil, 0o600), os.MkdirAll(filepath.Join(m.dir, "incoming", "空文件夹"), 0o700),
		os.MkdirAll(filepath.Join(m.dir, "referrals"), 0o750)); err != nil {
		return err
	}
	labs, err := filepath.Glob(filepath.Join(m.dir, "laboratory", "*.csv"))
	if err != nil || len(labs) < 20 {
		return errors.Join(errors.New("there are too few laboratory files"), err)
	}
	for _, lab := range labs[:10] {
		if os.Link(lab, filepath.Join(m.dir, "referrals", filepath.Base(lab))) == nil {
			m.counts.HardLinks++
			m.counts.Files++
		}
	}
	for i, lab := range labs[10:20] {
		target := filepath.Join("..", "laboratory", filepath.Base(lab))
		if i == 9 {
			target = "/nowhere/at all" // leads nowhere, and is kept as it is
		}
		if os.Symlink(target, filepath.Join(m.dir, "referrals", fmt.Sprintf("link %d → Åse.csv", i))) == nil {
			m.counts.Symlinks++
		}
	}
	for _, lab := range labs[20:24] {
		if xattr.LSet(lab, "user.kassett.class", []byte("sensitive\x00åæø")) == nil {
			m.counts.Xattrs++
		}
	}
	return nil
}

// sparse makes a large file that is nearly all hole.
func (m *maker) sparse(context.Context) error {
	path := filepath.Join(m.dir, "server", "test system.img")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("DEMO boot sector"), 0)
	for at := int64(4 << 20); err == nil && at < sparseBytes; at += 16 << 20 {
		_, err = io.CopyN(io.NewOffsetWriter(f, at), noise{m.random}, 64<<10)
	}
	if err == nil {
		err = f.Truncate(sparseBytes)
	}
	m.counts.Files++
	m.counts.Bytes += sparseBytes
	return errors.Join(err, f.Close())
}

// noise reads as random bytes.
type noise struct{ random *rand.Rand }

// Read implements io.Reader.
func (n noise) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(n.random.Uint32()) //nolint:gosec // the low byte is meant
	}
	return len(p), nil
}

// Changes is what a day did to the clinic.
type Changes struct{ Edited, Added, Deleted, Ransomed int }

// Change lets a day pass, and then a ransom.
func Change(ctx context.Context, dir string) (c Changes, err error) {
	random := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // invented data, not a secret
	err = filepath.WalkDir(filepath.Join(dir, "journal"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		switch n := random.IntN(20); {
		case n == 0:
			c.Deleted++
			return os.Remove(path)
		case n < 4:
			c.Edited++
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("\nTuesday: better.\n")
			return errors.Join(err, f.Close())
		case n < 5:
			c.Added++
			return os.WriteFile(path+".addendum", []byte("Tuesday: added.\n"), 0o600)
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	images, err := filepath.Glob(filepath.Join(dir, "images", "*", "*.pgm"))
	if err != nil {
		return c, err
	}
	for _, path := range images[:len(images)*2/3] {
		if err := ransom(path, random); err != nil {
			return c, err
		}
		c.Ransomed++
	}
	note := "Your files are encrypted. (This is the demo; nobody wants your money.)\n"
	return c, os.WriteFile(filepath.Join(dir, "READ ME.txt"), []byte(note), 0o600)
}

// ransom makes a file unreadable and gives it another name, as malware does.
func ransom(path string, random *rand.Rand) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	locked, err := os.OpenFile(path+".locked", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(locked, noise{random}, info.Size())
	return errors.Join(err, locked.Close(), os.Remove(path))
}
