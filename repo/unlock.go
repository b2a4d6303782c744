package repo

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo/seal"
)

// Unlock tries a password on the bytes of key files, one after the other, and
// returns a function that says whether the bytes of a config open with the master
// key and are those of a config. It is for a repository that cannot be opened
// yet. No more keys are tried than [Open] does.
func Unlock(ctx context.Context, password []byte, keys [][]byte) (config func(sealed []byte) error, err error) {
	var broken []error
	for i, b := range keys {
		if i == maxKeysTried {
			break
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		f, err := decodeKeyFile(b)
		var master *seal.Key
		if err == nil {
			master, err = f.unlock(password)
		}
		if err == nil {
			return func(sealed []byte) error { return opensConfig(master, sealed) }, nil
		}
		if !errors.Is(err, errWrongPassword) {
			broken = append(broken, &kassett.Error{
				Op: "open", What: "keys/" + kassett.Hash(b).String(), Kind: kassett.Corrupt, Err: err,
			})
		}
	}
	return nil, noKeyFits(len(keys)-len(broken), min(len(keys), maxKeysTried), broken)
}

func opensConfig(master *seal.Key, sealed []byte) error {
	plain, err := master.Open(nil, sealed)
	if err != nil {
		return err
	}
	_, err = decodeConfig(plain)
	return err
}
