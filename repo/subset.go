package repo

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"kassett"
)

// ParseSize reads a number of bytes as restic's flags take it: digits, then
// perhaps one of the suffixes b, k, m, g or t in either case, for powers of
// 1024.
func ParseSize(s string) (int64, error) {
	digits, unit := s, uint64(1)
	if s != "" {
		if i := strings.IndexByte("bkmgt", s[len(s)-1]|0x20); i >= 0 {
			digits, unit = s[:len(s)-1], 1<<(10*i)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	hi, lo := bits.Mul64(n, unit)
	if err != nil || hi != 0 || lo > math.MaxInt64 {
		return 0, &kassett.Error{
			Op: "parse size", What: strconv.Quote(s), Kind: kassett.Invalid,
			Hint: "give bytes, or a whole number with k, m, g or t, such as 500M",
		}
	}
	return int64(lo), nil
}

// MaxParts is the largest m of a [Subset] "n/m": parts are told apart by the
// first byte of a pack's ID, as restic does it.
const MaxParts = 256

// Subset says which packs a check reads. The zero Subset is none of them. At
// most one of All, Parts, Percent and Bytes is set.
type Subset struct {
	All         bool
	Part, Parts int     // part n of m equal parts, the same ones each time
	Percent     float64 // of the number of packs, chosen at random, at least one
	Bytes       int64   // of packs chosen at random, at least one pack
	Seed        uint64  // of the random choice
}

// ParseSubset reads "n/m", "x%", a size such as "5G", or "all". A random
// choice draws a new seed unless the text ends in "@SEED", as [Subset.String]
// writes it, so that a check can be done again on the same packs.
func ParseSubset(s string) (Subset, error) {
	bad := func(why string) (Subset, error) {
		return Subset{}, &kassett.Error{
			Op: "parse subset", What: strconv.Quote(s), Kind: kassett.Invalid, Err: fmt.Errorf("%s", why),
			Hint: "use n/m such as 1/12, a percentage such as 5%, a size such as 10G, or all",
		}
	}
	if s == "all" {
		return Subset{All: true}, nil
	}
	if part, parts, ok := strings.Cut(s, "/"); ok {
		n, err := strconv.ParseUint(part, 10, 16)
		m, err2 := strconv.ParseUint(parts, 10, 16)
		if err != nil || err2 != nil || n < 1 || n > m {
			return bad("want n/m with n from 1 to m")
		}
		if m > MaxParts {
			return bad(fmt.Sprintf("at most %d parts", MaxParts))
		}
		return Subset{Part: int(n), Parts: int(m)}, nil
	}
	set := Subset{Seed: rand.Uint64()} //nolint:gosec // a sample, not a secret
	amount, seed, seeded := strings.Cut(s, "@")
	if seeded {
		n, err := strconv.ParseUint(seed, 10, 64)
		if err != nil {
			return bad("the seed behind @ is not a number")
		}
		set.Seed = n
	}
	if percent, ok := strings.CutSuffix(amount, "%"); ok {
		x, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(x > 0 && x <= 100) {
			return bad("want more than 0% and at most 100%")
		}
		set.Percent = x
		return set, nil
	}
	n, err := ParseSize(amount)
	if err != nil || n == 0 {
		return bad("neither a part, nor a percentage, nor a size")
	}
	set.Bytes = n
	return set, nil
}

// String returns what [ParseSubset] reads back as the same choice, and "none"
// for the zero Subset.
func (s Subset) String() string {
	switch {
	case s.All:
		return "all"
	case s.Parts > 0:
		return fmt.Sprintf("%d/%d", s.Part, s.Parts)
	case s.Percent > 0:
		return strconv.FormatFloat(s.Percent, 'g', -1, 64) + "%@" + strconv.FormatUint(s.Seed, 10)
	case s.Bytes > 0:
		return fmt.Sprintf("%d@%d", s.Bytes, s.Seed)
	}
	return "none"
}

// None reports whether the subset is empty whatever packs there are.
func (s Subset) None() bool { return !s.All && s.Parts == 0 && s.Percent <= 0 && s.Bytes <= 0 }

// choose returns the packs of the subset, ordered by ID. The same packs and
// the same seed give the same choice, in whatever order they come.
func (s Subset) choose(packs []storedPack) []storedPack {
	packs = slices.Clone(packs)
	byID := func(a, b storedPack) int { return a.id.Compare(b.id) }
	slices.SortFunc(packs, byID)
	switch {
	case s.All:
		return packs
	case s.Parts > 0:
		return slices.DeleteFunc(packs, func(p storedPack) bool {
			return int(p.id[0])%s.Parts != s.Part-1
		})
	case s.None() || len(packs) == 0:
		return nil
	}
	random := rand.New(rand.NewPCG(s.Seed, 0)) //nolint:gosec // a sample, not a secret
	random.Shuffle(len(packs), func(i, j int) { packs[i], packs[j] = packs[j], packs[i] })
	n := 0
	if s.Percent > 0 {
		n = int(float64(len(packs)) * s.Percent / 100)
	} else {
		for sum := int64(0); n < len(packs) && sum+packs[n].size <= s.Bytes; n++ {
			sum += packs[n].size
		}
	}
	packs = packs[:min(max(n, 1), len(packs))]
	slices.SortFunc(packs, byID)
	return packs
}

// storedPack is a pack as the storage lists it.
type storedPack struct {
	id   kassett.ID
	size int64 // bytes
}

func (p storedPack) compare(id kassett.ID) int { return p.id.Compare(id) }

// findPack returns the position of id in packs, which are ordered by ID.
func findPack(packs []storedPack, id kassett.ID) (int, bool) {
	return slices.BinarySearchFunc(packs, id, storedPack.compare)
}

// Unused is how much garbage a prune may leave in the packs it keeps. The zero
// Unused is restic's default: 5 % of what remains.
type Unused struct {
	kind    unusedKind
	percent float64
	bytes   uint64
}

type unusedKind uint8

const (
	unusedDefault unusedKind = iota
	unusedPercent
	unusedBytes
	unusedUnlimited
)

// ParseUnused reads "unlimited", a percentage below 100 of what remains, or a
// size in bytes as [ParseSize] does.
func ParseUnused(s string) (Unused, error) {
	bad := func() (Unused, error) {
		return Unused{}, &kassett.Error{
			Op: "parse limit of unused bytes", What: strconv.Quote(s), Kind: kassett.Invalid,
			Hint: "use a percentage from 0% to below 100%, a size such as 10G, or unlimited",
		}
	}
	if s == "unlimited" {
		return Unused{kind: unusedUnlimited}, nil
	}
	if percent, ok := strings.CutSuffix(s, "%"); ok {
		x, err := strconv.ParseFloat(percent, 64)
		if err != nil || !(x >= 0 && x < 100) {
			return bad()
		}
		return Unused{kind: unusedPercent, percent: x}, nil
	}
	n, err := ParseSize(s)
	if err != nil {
		return bad()
	}
	return Unused{kind: unusedBytes, bytes: uint64(n)}, nil
}

// limit returns how many unused bytes may stay beside so many used ones.
func (u Unused) limit(used uint64) uint64 {
	share := func(percent float64) uint64 { return uint64(percent / (100 - percent) * float64(used)) }
	switch u.kind {
	case unusedPercent:
		return share(u.percent)
	case unusedBytes:
		return u.bytes
	case unusedUnlimited:
		return math.MaxUint64
	}
	return share(5)
}
