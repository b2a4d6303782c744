package search

import (
	"bytes"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// fold appends the form of s that is compared: without case, and with accents
// as one character (Unicode NFC, then full case folding, then NFC). Bytes that
// are not UTF-8 stay as they are.
func fold(dst, s []byte) []byte {
	if isASCII(s) {
		return lower(dst, s)
	}
	if !utf8.Valid(s) {
		return foldParts(dst, s)
	}
	folded := cases.Fold().Bytes(norm.NFD.Bytes(s))
	return norm.NFC.Append(dst, folded...)
}

// foldParts folds what is UTF-8 between bytes that are not.
func foldParts(dst, s []byte) []byte {
	for len(s) > 0 {
		n := 0
		for n < len(s) {
			r, size := utf8.DecodeRune(s[n:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			n += size
		}
		if n > 0 {
			dst = fold(dst, s[:n])
		}
		if s = s[n:]; len(s) > 0 {
			dst, s = append(dst, s[0]), s[1:]
		}
	}
	return dst
}

func isASCII(s []byte) bool {
	for _, c := range s {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// foldedName returns the folded form of a name when it is more than [lower], and
// nil otherwise: only that is kept in the index.
func foldedName(name []byte) []byte {
	if isASCII(name) {
		return nil
	}
	if folded := fold(nil, name); !bytes.Equal(folded, lower(nil, name)) {
		return folded
	}
	return nil
}

// lower is fold for ASCII, and leaves other bytes as they are.
func lower(dst, s []byte) []byte {
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}
