package snapshot

import "kassett"

// usualBuffer is the size of the buffer that a part of a large file is read
// into. Four of five chunks of the content cut fit in, the others move to a
// buffer of MaxBlob bytes: memory is what the parts take, not what they could.
const usualBuffer = 2 << 20

// buffers keeps free buffers of both sizes.
type buffers struct {
	usual, large chan []byte
}

func newBuffers(n int) buffers {
	return buffers{usual: make(chan []byte, n), large: make(chan []byte, n)}
}

// get returns a buffer of at least size bytes, whose content is undefined.
func (b *buffers) get(size int) []byte {
	free, room := b.usual, usualBuffer
	if size > usualBuffer {
		free, room = b.large, kassett.MaxBlob
	}
	select {
	case buf := <-free:
		return buf
	default:
		return make([]byte, room)
	}
}

// put takes back a buffer, or its beginning.
func (b *buffers) put(buf []byte) {
	free := b.usual
	if cap(buf) > usualBuffer {
		free = b.large
	}
	select {
	case free <- buf[:cap(buf)]:
	default:
	}
}
