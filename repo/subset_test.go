package repo

import (
	"slices"
	"testing"

	"kassett"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"0": 0, "17": 17, "17b": 17, "2k": 2048, "2K": 2048, "3M": 3 << 20, "5G": 5 << 30, "1t": 1 << 40, "8388607T": 8388607 << 40,
	} {
		if n, err := ParseSize(in); err != nil || n != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, n, err, want)
		}
	}
	for _, in := range []string{"", "k", "-1", "1.5G", "5 G", "5GB", "8388608T", "99999999999999999999", "G5", "\xff"} {
		if n, err := ParseSize(in); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("ParseSize(%q) = %d, %v; want an error of kind invalid", in, n, err)
		}
	}
}

func TestParseSubset(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"all": "all", "1/1": "1/1", "3/12": "3/12", "256/256": "256/256",
		"5%@9": "5%@9", "2.5%@18446744073709551615": "2.5%@18446744073709551615", "5G@1": "5368709120@1", "100%@0": "100%@0",
	} {
		s, err := ParseSubset(in)
		if err != nil || s.String() != want || s.None() {
			t.Errorf("ParseSubset(%q) = %v, %v; want %s", in, s, err, want)
		}
	}
	for _, in := range []string{"", "0/3", "4/3", "1/257", "1/", "/", "1/2/3", "0%", "101%", "NaN%", "-1%", "%", "0", "x", "5%@", "5%@x", "1/2@3"} {
		if s, err := ParseSubset(in); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("ParseSubset(%q) = %v, %v; want an error of kind invalid", in, s, err)
		}
	}
	s, err := ParseSubset("7%")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseSubset(s.String()); err != nil || again != s {
		t.Errorf("%q is read back as %v, %v", s.String(), again, err)
	}
}

func TestSubsetChoose(t *testing.T) {
	t.Parallel()
	var packs []storedPack
	for i := range 200 {
		id := kassett.Hash([]byte{byte(i)})
		packs = append(packs, storedPack{id: id, size: 1000})
	}
	reversed := slices.Clone(packs)
	slices.Reverse(reversed)
	for _, tc := range []struct {
		name string
		set  Subset
		want int
	}{
		{"none", Subset{}, 0},
		{"all", Subset{All: true}, 200},
		{"percent", Subset{Percent: 7, Seed: 1}, 14},
		{"at least one", Subset{Percent: 0.001, Seed: 1}, 1},
		{"size", Subset{Bytes: 5500, Seed: 1}, 5},
		{"small size", Subset{Bytes: 1, Seed: 1}, 1},
		{"large size", Subset{Bytes: 1 << 40, Seed: 1}, 200},
	} {
		got := tc.set.choose(packs)
		if len(got) != tc.want {
			t.Errorf("%s: %d packs, want %d", tc.name, len(got), tc.want)
		}
		if !slices.Equal(got, tc.set.choose(reversed)) {
			t.Errorf("%s: the choice depends on the order of the packs", tc.name)
		}
	}
	seen := map[kassett.ID]int{}
	for part := 1; part <= 7; part++ {
		for _, p := range (Subset{Part: part, Parts: 7}).choose(packs) {
			seen[p.id]++
		}
	}
	if len(seen) != len(packs) {
		t.Errorf("seven sevenths have %d packs of %d", len(seen), len(packs))
	}
	if len((Subset{Percent: 5}).choose(nil)) != 0 {
		t.Error("a choice from no packs is not empty")
	}
}

func TestUnusedLimit(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]uint64{
		"0%": 0, "5%": 52631, "50%": 1000000, "0": 0, "2k": 2048, "unlimited": 1<<64 - 1,
	} {
		u, err := ParseUnused(in)
		if err != nil || u.limit(1000000) != want {
			t.Errorf("ParseUnused(%q) allows %d, %v; want %d", in, u.limit(1000000), err, want)
		}
	}
	if five, _ := ParseUnused("5%"); (Unused{}).limit(1e9) != five.limit(1e9) {
		t.Error("the default is not 5 %")
	}
	for _, in := range []string{"", "100%", "-1%", "NaN%", "x", "%", "Unlimited"} {
		if _, err := ParseUnused(in); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("ParseUnused(%q): %v, want an error of kind invalid", in, err)
		}
	}
}
