package rest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"kassett"
)

// Rights is what a client may do.
type Rights uint8

// The rights. Data and Append contain Metadata, since neither can be used
// without it; Full contains all.
const (
	Metadata Rights = 1 << iota // list, and read all but packs
	Data                        // read packs
	Append                      // store what is new, and remove its own locks
	Init                        // make a repository: its place, first key and config
	Full                        // everything a client can be allowed, removing included
)

// rightWords are the words of the clients file, in the order of the rights.
var rightWords = [...]string{"metadata", "data", "append", "init", "full"}

// ParseRights reads words with commas between them, such as "append,data".
func ParseRights(s string) (Rights, error) {
	var r Rights
	for word := range strings.SplitSeq(s, ",") {
		i := slices.Index(rightWords[:], word)
		if i < 0 {
			return 0, fmt.Errorf("%.40q is no right: write any of %s, with commas", word, strings.Join(rightWords[:], ", "))
		}
		r |= 1 << i
	}
	return r, nil
}

// String returns what [ParseRights] reads.
func (r Rights) String() string {
	var words []string
	for i, word := range rightWords {
		if r&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}

// allow reports whether r contains what is needed.
func (r Rights) allow(need Rights) bool {
	if r&Full != 0 {
		return true
	}
	if r&(Data|Append|Init) != 0 {
		r |= Metadata
	}
	return r&need == need
}

// Client is one line of the clients file.
type Client struct {
	Name   string
	Hash   string // of the password, by bcrypt; "" when only a certificate counts
	Cert   bool   // a certificate in the client's name is needed
	Rights Rights
	// Paths are the repositories it reaches: a path; "name/*", all below
	// name; or "*", all.
	Paths []string
	Quota int64 // bytes that a repository may hold when it adds to it; 0 is no bound
	// Floor is how long a snapshot has to have been here before this client
	// may remove it.
	Floor time.Duration
}

// MinCost and the others bound the cost of password hashes: too low is guessed,
// too high is a way to keep the server busy.
const (
	minCost     = 10
	maxCost     = 14
	defaultCost = 12
)

// HashPassword returns the hash that a client's line holds.
func HashPassword(password []byte) (string, error) {
	switch {
	case len(password) < 12:
		return "", &kassett.Error{
			Op: "set password", Kind: kassett.Invalid, Err: fmt.Errorf("it has %d characters", len(password)),
			Hint: "take 12 to 72 characters; it is typed once, into a file on the client: let a machine make it",
		}
	case len(password) > 72:
		return "", &kassett.Error{
			Op: "set password", Kind: kassett.Invalid, Err: fmt.Errorf("it has %d bytes", len(password)),
			Hint: "take at most 72: the hash counts no more",
		}
	}
	hash, err := bcrypt.GenerateFromPassword(password, defaultCost)
	return string(hash), err
}

// String returns the client's line of the clients file.
func (c *Client) String() string {
	var b strings.Builder
	b.WriteString(c.Name)
	if c.Hash != "" {
		b.WriteString(" password=" + c.Hash)
	}
	if c.Cert {
		b.WriteString(" certificate=required")
	}
	fmt.Fprintf(&b, " rights=%s path=%s", c.Rights, strings.Join(c.Paths, ","))
	if c.Quota > 0 {
		b.WriteString(" quota=" + formatSize(c.Quota))
	}
	if c.Floor > 0 {
		fmt.Fprintf(&b, " floor=%dh", c.Floor/time.Hour)
	}
	return b.String()
}

// Check reports what is wrong with a client.
func (c *Client) Check() error {
	cost, err := bcrypt.Cost([]byte(c.Hash))
	switch {
	case c.Name == "" || len(c.Name) > 64 || !kassett.ValidBeside(c.Name) || strings.Contains(c.Name, "/"):
		return fmt.Errorf("%.80q is no name for a client: write up to 64 of a-z, 0-9, . _ -", c.Name)
	case c.Hash == "" && !c.Cert:
		return errors.New("it has neither password= nor certificate=required")
	case c.Hash != "" && err != nil:
		return errors.New("password= wants a hash of the kind bcrypt, never the password itself")
	case c.Hash != "" && (cost < minCost || cost > maxCost):
		return fmt.Errorf("the password's hash has the cost %d: want %d to %d", cost, minCost, maxCost)
	case c.Rights == 0:
		return errors.New("rights= is missing")
	case len(c.Paths) == 0:
		return errors.New("path= is missing")
	case c.Quota < 0, c.Floor < 0:
		return errors.New("quota= and floor= cannot be negative")
	}
	for _, p := range c.Paths {
		if below := strings.TrimSuffix(p, "/*"); p != "*" && !ValidRepository(below) {
			return fmt.Errorf("%.80q is no path: write it as site/host, of a-z, 0-9, . _ -, not beginning with a slash", p)
		}
	}
	return nil
}

// reaches reports whether the client may know of a repository.
func (c *Client) reaches(repository string) bool {
	return slices.ContainsFunc(c.Paths, func(p string) bool {
		below, all := strings.CutSuffix(p, "*")
		return p == repository || all && strings.HasPrefix(repository, below)
	})
}

// Clients is who may use a server. It does not change.
type Clients struct {
	byName map[string]*Client
	names  []string // as in the file
	cost   int      // of the dearest hash: an unknown name must cost no less
}

// maxClients bounds a clients file, in bytes.
const maxClients = 4 << 20

// ReadClients reads a clients file: one client a line, as [Client.String] writes
// it. Empty lines and lines that begin with # count for nothing. All that is
// wrong is in one [kassett.Invalid] error, with the numbers of the lines.
func ReadClients(r io.Reader, name string) (*Clients, error) {
	c := &Clients{byName: map[string]*Client{}, cost: minCost}
	var bad []error
	text, err := io.ReadAll(io.LimitReader(r, maxClients+1))
	if err != nil {
		return nil, fmt.Errorf("read clients: %w", err)
	}
	if len(text) > maxClients {
		bad = append(bad, fmt.Errorf("the file has more than %d bytes", maxClients))
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		cl, err := parseClient(line)
		if err == nil && c.byName[cl.Name] != nil {
			err = fmt.Errorf("%s has a line already", cl.Name)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		c.byName[cl.Name], c.names = cl, append(c.names, cl.Name)
		if cost, err := bcrypt.Cost([]byte(cl.Hash)); err == nil {
			c.cost = max(c.cost, cost)
		}
	}
	if err := lines.Err(); err != nil {
		bad = append(bad, err)
	}
	if len(bad) > 0 {
		return nil, &kassett.Error{
			Op: "read clients", What: name, Kind: kassett.Invalid, Err: errors.Join(bad[:min(len(bad), 20)]...),
			Hint: "mend these lines; `kassett serve client add` writes right ones",
		}
	}
	return c, nil
}

// All returns the clients in the order of the file.
func (c *Clients) All() []*Client {
	all := make([]*Client, 0, len(c.names))
	for _, name := range c.names {
		all = append(all, c.byName[name])
	}
	return all
}

func parseClient(line string) (*Client, error) {
	words := strings.Fields(line)
	c := &Client{Name: words[0]}
	seen := map[string]bool{}
	for _, word := range words[1:] {
		field, value, ok := strings.Cut(word, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("%.20q: want field=value, without spaces", redact(word))
		}
		if seen[field] {
			return nil, fmt.Errorf("%s= is there twice", field)
		}
		seen[field] = true
		var err error
		switch field {
		case "password":
			c.Hash = value
		case "certificate":
			if c.Cert = value == "required"; !c.Cert {
				err = errors.New("certificate= can only be required")
			}
		case "rights":
			c.Rights, err = ParseRights(value)
		case "path":
			c.Paths = strings.Split(value, ",")
		case "quota":
			c.Quota, err = ParseSize(value)
		case "floor":
			c.Floor, err = ParseFloor(value)
		default:
			err = fmt.Errorf("there is no field %.20q", redact(field))
		}
		if err != nil {
			return nil, err
		}
	}
	return c, c.Check()
}

// redact keeps what may be a password or a hash out of a message.
func redact(word string) string {
	if strings.ContainsAny(word, "$") || len(word) > 20 {
		return "..."
	}
	return word
}

var units = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

// ParseSize reads a number of bytes with a unit, such as 500GiB.
func ParseSize(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err == nil && n > 0 && n <= math.MaxInt64/u.bytes {
			return n * u.bytes, nil
		}
		break
	}
	return 0, fmt.Errorf("%.20q is no size: write it like 500GiB, with KiB, MiB, GiB or TiB", s)
}

func formatSize(n int64) string {
	for _, u := range units {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

// ParseFloor reads a number of days or hours, such as 30d.
func ParseFloor(s string) (time.Duration, error) {
	const most = 200 * 365 * 24
	unit, hours := s[max(0, len(s)-1):], 1
	if unit == "d" {
		hours = 24
	}
	n, err := strconv.Atoi(strings.TrimSuffix(s, unit))
	if err != nil || unit != "d" && unit != "h" || n < 0 || n > most/hours {
		return 0, fmt.Errorf("%.20q is no time: write it in days or hours, like 30d", s)
	}
	return time.Duration(n*hours) * time.Hour, nil
}
