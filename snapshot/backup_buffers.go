package snapshot

import (
	"math/bits"

	"kassett"
)

// Buffers have a power of two of bytes: memory is what the parts of large files
// take, not what they could. Most chunks of the content cut have less than 2
// MiB, and few more than 4.
const (
	leastBuffer = 512 << 10
	bufferSizes = 5 // up to kassett.MaxBlob
)

// buffers keeps free buffers, few of the large ones.
type buffers [bufferSizes]chan []byte

func newBuffers(n int) (b buffers) {
	for i := range b {
		b[i] = make(chan []byte, max(1, n>>i))
	}
	return b
}

// bufferClass returns which buffers have at least size bytes, which is at most
// [kassett.MaxBlob].
func bufferClass(size int) int {
	return max(0, bits.Len(uint((size-1)/leastBuffer)))
}

// get returns a buffer of at least size bytes, whose content is undefined.
func (b *buffers) get(size int) []byte {
	class := bufferClass(size)
	select {
	case buf := <-b[class]:
		return buf
	default:
		return make([]byte, min(leastBuffer<<class, kassett.MaxBlob))
	}
}

// put takes back a buffer, or its beginning.
func (b *buffers) put(buf []byte) {
	select {
	case b[bufferClass(cap(buf))] <- buf[:cap(buf)]:
	default:
	}
}
