package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
)

// errCut is the cause when a connection breaks in the middle of an answer.
var errCut = errors.New("the connection was cut in the middle of the answer")

func badName(op, name string) error {
	return &kassett.Error{
		Op: op, What: fmt.Sprintf("%.80q", name), Kind: kassett.Invalid,
		Err: errors.New("not a name for a file beside a repository"),
	}
}

// isNotFound reports whether a server says that an object is not there.
func isNotFound(err error) bool {
	switch minio.ToErrorResponse(err).Code {
	case minio.NoSuchKey, minio.NoSuchVersion:
		return true
	}
	return false
}

// fault gives an error its kind, and says what the operator can do about it.
func (s *Storage) fault(op, what string, err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*kassett.Error](err); known {
		return err
	}
	e := &kassett.Error{Op: op, What: what, Kind: kassett.KindOf(err), Err: err}
	if e.Kind == kassett.Interrupted {
		return e
	}
	if answer, ok := errors.AsType[minio.ErrorResponse](err); ok {
		s.answered(e, answer)
	} else {
		s.unanswered(e, err)
	}
	return e
}

// skewLimit is by how much S3 lets clocks differ.
const skewLimit = 15 * time.Minute

const (
	hintWait = "the server says that it cannot now: wait, and run it again; what was stored so far is not sent again"
	hintKeys = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile; with -o s3.region the region too"
)

// codes are what answers mean, by their code:
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and
// what MinIO and Ceph add.
var codes = map[string]struct {
	kind kassett.Kind
	hint string
}{
	minio.NoSuchKey:          {kassett.NotFound, ""},
	minio.NoSuchVersion:      {kassett.NotFound, ""},
	minio.NoSuchBucket:       {kassett.NotFound, "check the name of the bucket; kassett init makes a bucket that is not there"},
	minio.PreconditionFailed: {kassett.Exists, ""},
	conflict:                 {kassett.Offline, hintWait},

	minio.AccessDenied:                   {kassett.Denied, "check what the policy of the user and of the bucket allows; reading needs s3:ListBucket and s3:GetObject, storing s3:PutObject, removing s3:DeleteObject"},
	"AllAccessDisabled":                  {kassett.Denied, "ask the owner of the bucket: all access to it is switched off"},
	"AccountProblem":                     {kassett.Denied, "ask the provider: something is wrong with the account"},
	"InvalidAccessKeyId":                 {kassett.Denied, hintKeys},
	"SignatureDoesNotMatch":              {kassett.Denied, hintKeys},
	"ExpiredToken":                       {kassett.Denied, "the credentials have expired: get new ones (AWS_SESSION_TOKEN belongs to them) and run it again"},
	"ExpiredTokenException":              {kassett.Denied, "the credentials have expired: get new ones (AWS_SESSION_TOKEN belongs to them) and run it again"},
	"TokenRefreshRequired":               {kassett.Denied, "the credentials have expired: get new ones (AWS_SESSION_TOKEN belongs to them) and run it again"},
	"InvalidToken":                       {kassett.Denied, "AWS_SESSION_TOKEN does not belong to the key: get new credentials, or leave it out"},
	"RequestTimeTooSkewed":               {kassett.Denied, ""}, // says fault by itself
	"InvalidObjectState":                 {kassett.Denied, hintCold},
	minio.MethodNotAllowed:               {kassett.Denied, ""},
	"AuthorizationHeaderMalformed":       {kassett.Invalid, ""}, // says answered by itself
	minio.InvalidRegion:                  {kassett.Invalid, ""},
	"PermanentRedirect":                  {kassett.Invalid, ""},
	"IllegalLocationConstraintException": {kassett.Invalid, ""},
	minio.InvalidBucketName:              {kassett.Invalid, "check the name of the bucket: lower-case letters, digits, dots and hyphens"},
	"InvalidStorageClass":                {kassett.Invalid, "check -o s3.storage-class: this server does not know that class"},
	"NotImplemented":                     {kassett.Invalid, "the server cannot do this; if it does not know If-None-Match, try -o s3.conditional-writes=false"},
	"EntityTooLarge":                     {kassett.Invalid, "the server takes no file of this size: use a smaller --pack-size"},

	"QuotaExceeded":                  {kassett.Full, hintFull},
	"XMinioAdminBucketQuotaExceeded": {kassett.Full, hintFull},
	"XMinioStorageFull":              {kassett.Full, hintFull},
	"InsufficientStorage":            {kassett.Full, hintFull},
	"ServiceQuotaExceeded":           {kassett.Full, hintFull},

	"BadDigest":                   {kassett.Corrupt, hintChanged},
	"InvalidDigest":               {kassett.Corrupt, hintChanged},
	"XAmzContentSHA256Mismatch":   {kassett.Corrupt, hintChanged},
	"XAmzContentChecksumMismatch": {kassett.Corrupt, hintChanged},

	"IncompleteBody":       {kassett.Offline, hintWait},
	"RequestTimeout":       {kassett.Offline, hintWait},
	"SlowDown":             {kassett.Offline, hintWait},
	"SlowDownRead":         {kassett.Offline, hintWait},
	"SlowDownWrite":        {kassett.Offline, hintWait},
	"ServiceUnavailable":   {kassett.Offline, hintWait},
	"InternalError":        {kassett.Offline, hintWait},
	"Throttling":           {kassett.Offline, hintWait},
	"ThrottlingException":  {kassett.Offline, hintWait},
	"RequestLimitExceeded": {kassett.Offline, hintWait},
	"OperationAborted":     {kassett.Offline, hintWait},
}

const (
	hintCold    = "it rests in a storage class that must be thawed first: -o s3.enable-restore=true asks the provider for it, which takes hours and costs money"
	hintFull    = "free room in the bucket, or raise its quota, and run it again: nothing half-written is left"
	hintChanged = "the bytes changed on the way to the server: run it again; if it comes back, test the memory of this machine and look for a proxy between"
)

// answered reads what the server says.
func (s *Storage) answered(e *kassett.Error, a minio.ErrorResponse) {
	e.Err = &answerError{a}
	known, ok := codes[a.Code]
	e.Kind, e.Hint = known.kind, known.hint
	switch {
	case ok:
	case a.StatusCode == http.StatusNotFound:
		e.Kind = kassett.NotFound
	case a.StatusCode == http.StatusForbidden || a.StatusCode == http.StatusUnauthorized:
		e.Kind = kassett.Denied
	case a.StatusCode == http.StatusInsufficientStorage:
		e.Kind, e.Hint = kassett.Full, hintFull
	case a.StatusCode == http.StatusTooManyRequests || a.StatusCode == http.StatusRequestTimeout || a.StatusCode >= 500:
		e.Kind, e.Hint = kassett.Offline, hintWait
	}
	switch ahead, seen := s.clock.offset(); {
	case a.Code == "RequestTimeTooSkewed", e.Kind == kassett.Denied && seen && ahead.Abs() > skewLimit:
		e.Hint = "the clock of this machine is wrong: set it, best by a time server, and run it again"
		if seen {
			e.Hint = fmt.Sprintf("the clock of this machine is wrong, the server's is %s: set it, best by a time server, and run it again", apart(ahead))
		}
	case e.Kind == kassett.Invalid && e.Hint == "":
		e.Hint = "name the region of the bucket with -o s3.region"
		if a.Region != "" {
			e.Hint = "the bucket is in another region: use -o s3.region=" + a.Region
		}
	case e.Kind == kassett.NotFound:
		e.Err = errors.Join(e.Err, fs.ErrNotExist)
	}
}

// apart says by how much a clock differs.
func apart(ahead time.Duration) string {
	if ahead < 0 {
		return ahead.Abs().Round(time.Minute).String() + " behind"
	}
	return ahead.Round(time.Minute).String() + " ahead"
}

// unanswered reads why there was no answer.
func (s *Storage) unanswered(e *kassett.Error, err error) {
	var (
		unknown *x509.UnknownAuthorityError
		bad     *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		dns     *net.DNSError
	)
	switch {
	case errors.As(err, &bad), errors.As(err, &unknown):
		e.Kind, e.Hint = kassett.Denied, "the server's certificate is not trusted: give the certificate of its authority with --cacert, and check that the name in the place is the one in the certificate"
	case errors.As(err, &record) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.Kind, e.Hint = kassett.Invalid, "the server speaks plain HTTP there: write the place with http://, in a network that nobody else hears"
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Kind, e.Hint = kassett.Offline, "check the name of the host, and that this machine can look up names"
	case e.Kind == kassett.Other || e.Kind == kassett.Offline:
		e.Kind, e.Hint = kassett.Offline, "check that "+s.o.Host+" can be reached from here, and that it listens there"
	}
}

// answerError is what a server says, with the code that names it.
type answerError struct{ minio.ErrorResponse }

// Error says the code and, where it says more, the message, shortened.
func (e *answerError) Error() string {
	code, text := e.Code, strings.Join(strings.Fields(e.Message), " ")
	if code == "" {
		code = http.StatusText(e.StatusCode)
	}
	if text == "" || text == code {
		return code
	}
	return fmt.Sprintf("%s: %.300s", code, text)
}
