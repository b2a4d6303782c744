package s3

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
)

// Options say where a bucket is and how it is used.
type Options struct {
	Host   string // of the server, with a port if it is not the usual one
	Plain  bool   // HTTP instead of HTTPS
	Bucket string
	Prefix string // of every object of the repository; "" for none

	Region       string // "" asks the server
	BucketLookup minio.BucketLookupType
	StorageClass string // of packs of content; "" is the bucket's own. All else stays in it
	Connections  int    // requests side by side
	Retries      int    // attempts of one request, before an error is returned
	OldLists     bool   // version 1 of the listing, for servers that lack version 2
	// NoConditions says that the server does not know If-None-Match on a put.
	// Then it is asked whether the name is free before each put, and of two
	// puts at the same moment both may succeed.
	NoConditions bool
	Thaw         Thaw
	Retention    kassett.Retention

	Transport   http.RoundTripper // nil for the usual one
	Credentials Credentials
}

// Thaw says what to do about objects in a class that cannot be read at once,
// such as GLACIER and DEEP_ARCHIVE.
type Thaw struct {
	On      bool          // they may be asked for, which costs money
	Days    int           // how long they can be read then
	Timeout time.Duration // how long to wait for them
	Tier    string        // Standard, Bulk or Expedited
}

// ParsePlace reads the place of a repository as restic spells it, without the
// "s3:": HOST/BUCKET/PREFIX, //HOST/BUCKET/PREFIX, or a URL that begins with
// http: or https:. The other options have their defaults.
func ParsePlace(place string) (Options, error) {
	o := Options{
		Connections: 8, Retries: 3,
		Thaw: Thaw{Days: 7, Timeout: 24 * time.Hour, Tier: "Standard"},
	}
	invalid := func(err error) (Options, error) {
		return o, &kassett.Error{
			Op: "read the place", What: "s3:" + withoutUser(place), Kind: kassett.Invalid, Err: err,
			Hint: "write it as s3:https://HOST/BUCKET/FOLDER, or s3:s3.amazonaws.com/BUCKET/FOLDER for Amazon's",
		}
	}
	rest := place
	if strings.HasPrefix(place, "http:") || strings.HasPrefix(place, "https:") {
		u, err := url.Parse(place)
		switch {
		case err != nil:
			return invalid(errors.New("it is no URL"))
		case u.User != nil:
			return invalid(errors.New("it has a name or a password in it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"))
		case u.RawQuery != "" || u.Fragment != "":
			return invalid(errors.New("it has a ? or a #"))
		}
		o.Plain = u.Scheme == "http"
		rest = u.Host + u.Path
	} else {
		rest = strings.TrimPrefix(rest, "//")
	}
	host, rest, _ := strings.Cut(rest, "/")
	bucket, prefix, _ := strings.Cut(rest, "/")
	if prefix != "" {
		prefix = strings.Trim(path.Clean(prefix), "/")
	}
	o.Host, o.Bucket, o.Prefix = host, bucket, prefix
	switch {
	case host == "":
		return invalid(errors.New("the host is missing"))
	case bucket == "":
		return invalid(errors.New("the bucket is missing"))
	case prefix == "." || prefix == ".." || strings.HasPrefix(prefix, "../"):
		return invalid(errors.New("the folder leads out of the bucket"))
	}
	return o, nil
}

// withoutUser hides what stands before an @: it may be a secret.
func withoutUser(place string) string {
	if i := strings.LastIndex(place, "@"); i >= 0 {
		return "…" + place[i:]
	}
	return place
}

// Set sets one option by its name, which is restic's where restic has it.
func (o *Options) Set(name, value string) (err error) {
	const most = 1 << 10
	switch name {
	case "region":
		o.Region = value
	case "bucket-lookup":
		o.BucketLookup, err = parseLookup(value)
	case "storage-class":
		o.StorageClass = value
	case "connections":
		o.Connections, err = parseCount(value, most)
	case "retries":
		o.Retries, err = parseCount(value, most)
	case "list-objects-v1":
		o.OldLists, err = strconv.ParseBool(value)
	case "conditional-writes":
		var on bool
		on, err = strconv.ParseBool(value)
		o.NoConditions = !on
	case "unsafe-anonymous-auth":
		o.Credentials.Anonymous, err = strconv.ParseBool(value)
	case "instance-role":
		o.Credentials.InstanceRole, err = strconv.ParseBool(value)
	case "enable-restore":
		o.Thaw.On, err = strconv.ParseBool(value)
	case "restore-days":
		o.Thaw.Days, err = parseCount(value, 3650)
	case "restore-timeout":
		if o.Thaw.Timeout, err = time.ParseDuration(value); err == nil && o.Thaw.Timeout <= 0 {
			err = errors.New("it is not positive")
		}
	case "object-lock", "retain", "retain-slack":
		err = o.setRetention(name, value)
	case "restore-tier":
		if o.Thaw.Tier = value; value != "Standard" && value != "Bulk" && value != "Expedited" {
			err = errors.New("it is none of Standard, Bulk and Expedited")
		}
	default:
		err = errors.New("there is no such option")
	}
	if err != nil {
		return &kassett.Error{
			Op: "read option", What: "s3." + name, Kind: kassett.Invalid, Err: err,
			Hint: "the handbook's page on storages lists the options of S3",
		}
	}
	return nil
}

func parseLookup(value string) (minio.BucketLookupType, error) {
	switch value {
	case "auto":
		return minio.BucketLookupAuto, nil
	case "dns":
		return minio.BucketLookupDNS, nil
	case "path":
		return minio.BucketLookupPath, nil
	}
	return 0, errors.New("it is none of auto, dns and path")
}

func parseCount(value string, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err == nil && (n < 1 || n > most) {
		err = fmt.Errorf("it is not from 1 to %d", most)
	}
	return n, err
}
