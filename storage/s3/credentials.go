package s3

import (
	"errors"
	"net/http"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"kassett"
)

// Credentials say who we are to the server. The first that is given counts: the
// key, then a profile of Amazon's shared files, then the role of the machine.
type Credentials struct {
	AccessKey, SecretKey, SessionToken string
	File                               string // of shared credentials; "" for Amazon's usual ones
	Profile                            string // in that file; "" for $AWS_PROFILE or "default"
	InstanceRole                       bool   // ask the machine's own metadata service
	Anonymous                          bool   // say nothing
}

// provider returns where minio-go gets keys from, once it has got one.
func (c Credentials) provider(rt http.RoundTripper) (*credentials.Credentials, error) {
	refuse := func(err error) (*credentials.Credentials, error) {
		return nil, &kassett.Error{
			Op: "find S3 credentials", Kind: kassett.Denied, Err: err,
			Hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for a profile in ~/.aws/credentials; -o s3.unsafe-anonymous-auth=true works without",
		}
	}
	var chosen *credentials.Credentials
	switch {
	case c.Anonymous:
		return credentials.New(&credentials.Static{Value: credentials.Value{SignerType: credentials.SignatureAnonymous}}), nil
	case c.AccessKey != "" && c.SecretKey != "":
		return credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken), nil
	case c.AccessKey != "":
		return refuse(errors.New("AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not"))
	case c.SecretKey != "":
		return refuse(errors.New("AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID is not"))
	case c.InstanceRole:
		chosen = credentials.New(&credentials.IAM{})
	default:
		chosen = credentials.NewFileAWSCredentials(c.File, c.Profile)
	}
	v, err := chosen.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: rt}})
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errors.New("there is no key")
	}
	if err != nil {
		return refuse(err)
	}
	return chosen, nil
}
