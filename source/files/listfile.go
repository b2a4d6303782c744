package files

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"kassett"
)

// ReadPatterns reads a file of patterns, one a line (--exclude-file and the
// like). White space around a pattern, empty lines and lines that begin with #
// are passed over; $NAME and ${NAME} stand for variables of the environment,
// $$ for a dollar sign. The file is UTF-8, or UTF-16 with a byte order mark.
func ReadPatterns(file string) ([]string, error) {
	lines, err := readLines(file, nil)
	if err != nil {
		return nil, fmt.Errorf("read patterns: %w", err)
	}
	var patterns []string
	for _, line := range lines {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		patterns = append(patterns, os.Expand(line, func(name string) string {
			if name == "$" {
				return "$"
			}
			return os.Getenv(name)
		}))
	}
	return patterns, nil
}

// ReadTargets reads a file of targets with wildcards, one a line (--files-from),
// and returns what they match now. White space around a line, empty lines and
// lines that begin with # are passed over. The file "-" is stdin. A line that
// matches nothing is told to warn.
func ReadTargets(file string, stdin io.Reader, warn func(line string, err error)) ([]string, error) {
	lines, err := readLines(file, stdin)
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	var targets []string
	for _, line := range lines {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		found, err := filepath.Glob(line)
		if err != nil {
			return nil, &kassett.Error{
				Op: "read targets", What: fmt.Sprintf("%q", line), Kind: kassett.Invalid, Err: err,
				Hint: `close every [ with ], or use a list without wildcards (--files-from-verbatim)`,
			}
		}
		if len(found) == 0 && warn != nil {
			warn(line, errors.New("matches nothing"))
		}
		targets = append(targets, found...)
	}
	return targets, nil
}

// ReadTargetsVerbatim reads a file of targets, one a line, exactly as they are
// (--files-from-verbatim). Empty lines are passed over. The file "-" is stdin.
func ReadTargetsVerbatim(file string, stdin io.Reader) ([]string, error) {
	lines, err := readLines(file, stdin)
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	targets := lines[:0]
	for _, line := range lines {
		if line != "" {
			targets = append(targets, line)
		}
	}
	return targets, nil
}

// ReadTargetsRaw reads a file of targets, each ended by a zero byte
// (--files-from-raw, as "find -print0" writes). The file "-" is stdin. An empty
// name is an error, as is a last name that is not ended.
func ReadTargetsRaw(file string, stdin io.Reader) ([]string, error) {
	data, err := readAll(file, stdin)
	if err != nil {
		return nil, fmt.Errorf("read targets: %w", err)
	}
	bad := func(why string) error {
		return &kassett.Error{
			Op: "read targets", What: file, Kind: kassett.Invalid, Err: errors.New(why),
			Hint: "write every name with a zero byte after it, as find -print0 does",
		}
	}
	if len(data) == 0 {
		return nil, nil
	}
	text, ended := strings.CutSuffix(string(data), "\x00")
	if !ended {
		return nil, bad("the last name is not ended by a zero byte")
	}
	targets := strings.Split(text, "\x00")
	for _, name := range targets {
		if name == "" {
			return nil, bad("an empty name")
		}
	}
	return targets, nil
}

func readAll(file string, stdin io.Reader) ([]byte, error) {
	if file == "-" && stdin != nil {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

// readLines returns the lines of a text file without their ends.
func readLines(file string, stdin io.Reader) ([]string, error) {
	data, err := readAll(file, stdin)
	if err != nil {
		return nil, err
	}
	if file != "-" {
		data = decodeText(data)
	}
	var lines []string
	scan := bufio.NewScanner(bytes.NewReader(data))
	scan.Buffer(nil, max(len(data), 1)+1)
	for scan.Scan() {
		lines = append(lines, scan.Text())
	}
	return lines, scan.Err()
}

// decodeText takes a byte order mark away, and makes UTF-8 of UTF-16.
func decodeText(data []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(data, []byte{0xef, 0xbb, 0xbf}):
		return data[3:]
	case bytes.HasPrefix(data, []byte{0xfe, 0xff}):
		order = binary.BigEndian
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}):
		order = binary.LittleEndian
	default:
		return data
	}
	units := make([]uint16, 0, len(data)/2)
	for i := 2; i+1 < len(data); i += 2 {
		units = append(units, order.Uint16(data[i:]))
	}
	return []byte(string(utf16.Decode(units)))
}
