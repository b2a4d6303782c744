package rest_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"kassett"
	"kassett/storage/storagetest"
)

// TestStorage holds client and server together to what every storage promises.
func TestStorage(t *testing.T) {
	t.Parallel()
	s := serve(t, clients(t, "all PW rights=full path=*"))
	var n atomic.Int32
	storagetest.Run(t, func(t *testing.T) kassett.Storage {
		return s.create(t, "all", fmt.Sprintf("site/repo-%d/", n.Add(1)))
	})
}
