//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

const (
	docCount     = 100_000
	docsPatient  = 25 // documents in a patient's folder
	docSeed      = 1
	twinSeed     = 2
	twinPercent  = 5
	docSmallest  = 1 << 10 // bytes
	docFactor    = 60      // the largest is so many times the smallest
	wordCount    = 20_000
	wordExponent = 1.25 // how much more frequent words are than rare ones
)

var docEndings = [...]string{"hl7", "xml", "txt"}

func generateDocs(dir string, scale float64) error {
	n := scaled(docCount, scale, 50)
	return each((n+docsPatient-1)/docsPatient, func(p int) error {
		for i := p * docsPatient; i < min(n, (p+1)*docsPatient); i++ {
			if err := writeFile(docPath(dir, i), document(original(i))); err != nil {
				return err
			}
		}
		return nil
	})
}

func docPath(dir string, i int) string {
	p := i / docsPatient
	return filepath.Join(dir, strconv.Itoa(2016+p%10), fmt.Sprintf("%02d", 1+p/10%12), fmt.Sprintf("patient%06d", p),
		fmt.Sprintf("doc%07d.%s", i, docEndings[i%len(docEndings)]))
}

// original returns the document whose text document i has: mostly i itself.
func original(i int) int {
	for i > 100 {
		r := seeded(twinSeed, i)
		if r.IntN(100) >= twinPercent {
			break
		}
		kinds := len(docEndings)
		i = r.IntN(i/kinds)*kinds + i%kinds // an earlier one of the same form
	}
	return i
}

func document(i int) []byte {
	r := seeded(docSeed, i)
	size := int(docSmallest * math.Exp(r.Float64()*math.Log(docFactor)))
	return appendText(make([]byte, 0, size+512), r, i%len(docEndings), i, size)
}

// appendText appends about size bytes of one of the forms of docEndings.
func appendText(b []byte, r *rand.Rand, form, id, size int) []byte {
	size += len(b)
	switch docEndings[form] {
	case "hl7":
		b = fmt.Appendf(b, "MSH|^~\\&|LAB|SYN|EHR|SYN|2026%02d%02d%06d||ORU^R01|M%09d|P|2.5.1\rPID|1||%08d^^^SYN^MR||SYNTHETIC^PATIENT%d||19%02d%02d%02d\r",
			1+r.IntN(12), 1+r.IntN(28), r.IntN(240000), id, r.IntN(1e8), id, 20+r.IntN(79), 1+r.IntN(12), 1+r.IntN(28))
		for k := 1; len(b) < size; k++ {
			b = fmt.Appendf(b, "OBX|%d|NM|%d-%d^%s %s^LN||%d.%d|mmol/L|3.5-5.1|N|||F\r", k, 1000+r.IntN(3000), k%10, word(r), word(r), r.IntN(200), r.IntN(10))
			if k%6 == 0 {
				b = append(appendWords(append(b, "NTE|1||"...), r, 12), '\r')
			}
		}
	case "xml":
		b = fmt.Appendf(b, "<?xml version=\"1.0\"?>\n<ClinicalDocument xmlns=\"urn:hl7-org:v3\">\n <id root=\"2.999.1\" extension=\"%d\"/>\n", id)
		for len(b) < size {
			b = fmt.Appendf(b, " <entry typeCode=\"DRIV\">\n  <observation classCode=\"OBS\" moodCode=\"EVN\">\n   <code code=\"%d\" codeSystem=\"2.16.840.1.113883.6.1\" displayName=\"%s\"/>\n   <text>",
				1000+r.IntN(9000), word(r))
			b = fmt.Appendf(appendWords(b, r, 10), "</text>\n   <value xsi:type=\"PQ\" value=\"%d.%d\" unit=\"mg/dL\"/>\n  </observation>\n </entry>\n", r.IntN(300), r.IntN(100))
		}
		b = append(b, "</ClinicalDocument>\n"...)
	default:
		b = fmt.Appendf(b, "LETTER %d\n\n", id)
		for len(b) < size {
			b = append(appendWords(b, r, 14), ".\n"...)
		}
	}
	return b
}

func appendWords(b []byte, r *rand.Rand, n int) []byte {
	for range n {
		b = append(append(b, word(r)...), ' ')
	}
	return b
}

// word returns a word; some are far more frequent than others.
func word(r *rand.Rand) string {
	w := vocabulary()
	return w[r.Uint32()%uint32(len(w))]
}

// vocabulary is a table in which frequent words stand many times.
var vocabulary = sync.OnceValue(func() []string {
	r := seeded(42, 0)
	syllables := strings.Fields("an ti bo dy car dio lo gy he pa ti tis ne phro scle ro sis in ter nal med ic pul mo na ry ox y gen " +
		"blood sam ple re sult dis charge ad mis sion dose tab let mg daily chest pain ver te bra lum bal cor tex")
	seen := map[string]bool{}
	words := make([]string, 0, wordCount)
	for len(words) < wordCount {
		var s strings.Builder
		for k := 1 + r.IntN(4); k >= 0; k-- {
			s.WriteString(syllables[r.IntN(len(syllables))])
		}
		if w := s.String(); !seen[w] {
			seen[w] = true
			words = append(words, w)
		}
	}
	sum := 0.0
	for i := range words {
		sum += math.Pow(float64(i+2), -wordExponent)
	}
	const size = 1 << 18
	table := make([]string, 0, size)
	for i, w := range words {
		for n := math.Ceil(size * math.Pow(float64(i+2), -wordExponent) / sum); n > 0 && len(table) < size; n-- {
			table = append(table, w)
		}
	}
	return table
})

// changeDocs inserts an addendum somewhere in one document of a hundred.
func changeDocs(dir string, seed uint64) error {
	k := 0
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		k++
		if uint64(k)%100 != seed%100 {
			return nil
		}
		r := seeded(seed+1000, k)
		old, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := r.IntN(len(old) + 1)
		added := appendText(nil, r, k%len(docEndings), k, 300+r.IntN(2000))
		return os.WriteFile(path, bytes.Join([][]byte{old[:at], added, old[at:]}, nil), 0o644)
	})
}
