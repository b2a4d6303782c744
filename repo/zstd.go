package repo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"kassett"
)

// Bounds on what a foreign frame may grow to, in bytes.
const (
	// maxPlain is the longest plaintext that is decompressed: far more than
	// any chunk, enough for the tree of a folder with millions of entries.
	maxPlain = 2 << 30
	// maxUnpackedPlain bounds unpacked files, whose length is written nowhere.
	maxUnpackedPlain = 1 << 30
	// maxRatio is what a zstd frame can grow by: a block of 128 KiB takes at
	// least 4 bytes (RFC 8878, 3.1.1.2).
	maxRatio = 32 << 10
)

// frameRoom is what a frame takes beside its blocks, at most, in bytes.
const frameRoom = 64

// zstdWindow is restic's: a larger one would ask more memory of every reader.
const zstdWindow = 512 << 10

// Incompressible content is recognised by samples, so that photographs and
// archives cost no compression at all.
const (
	sampleFrom  = 16 << 10 // shorter blobs are just compressed
	sampleCount = 4
	sampleSize  = 4 << 10
	// sampleBits is the order-0 entropy, in bits per byte, above which a
	// sample is as good as random: uniform random samples of this length
	// have 7.95 ± 0.01.
	sampleBits = 7.9
)

// codec compresses and decompresses blobs. It is made by start, at first use,
// and safe for many goroutines after that.
type codec struct {
	once sync.Once
	err  error
	data *zstd.Encoder // nil: data is stored raw
	tree *zstd.Encoder
	dec  *zstd.Decoder // never gives more than the room it is given
	free *zstd.Decoder // for frames of unknown length
}

// start makes the encoders and the decoder for a compression. The first call
// decides.
func (c *codec) start(level Compression) error {
	c.once.Do(func() { c.err = c.make(level) })
	return c.err
}

func (c *codec) make(level Compression) (err error) {
	data, tree := zstd.SpeedFastest, zstd.SpeedDefault
	switch level {
	case "", CompressAuto, CompressOff:
	case CompressFastest:
		tree = zstd.SpeedFastest
	case CompressBetter:
		data, tree = zstd.SpeedBetterCompression, zstd.SpeedBetterCompression
	case CompressMax:
		data, tree = zstd.SpeedBestCompression, zstd.SpeedBestCompression
	default:
		return &kassett.Error{
			Op: "compress", Kind: kassett.Invalid, Err: fmt.Errorf("%q is no compression", level),
			Hint: "use auto, off, fastest, better or max",
		}
	}
	encoder := func(l zstd.EncoderLevel) (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(zstdWindow), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	}
	if level != CompressOff {
		if c.data, err = encoder(data); err != nil {
			return err
		}
	}
	if c.tree = c.data; c.tree == nil || tree != data {
		if c.tree, err = encoder(tree); err != nil {
			return err
		}
	}
	decoder := func(more ...zstd.DOption) (*zstd.Decoder, error) {
		return zstd.NewReader(nil, append(more, zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(0))...)
	}
	if c.dec, err = decoder(zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxPlain)); err != nil {
		return err
	}
	c.free, err = decoder(zstd.WithDecoderMaxMemory(maxUnpackedPlain))
	return err
}

// compress appends plain as one zstd frame to dst and reports true, or reports
// false when it is better stored raw.
func (c *codec) compress(dst, plain []byte, t BlobType) ([]byte, bool) {
	enc := c.data
	if t == TreeBlob {
		enc = c.tree
	}
	if enc == nil || len(plain) == 0 || t == DataBlob && incompressible(plain) {
		return dst, false
	}
	start := len(dst)
	dst = enc.EncodeAll(plain, slices.Grow(dst, len(plain)+len(plain)/128+frameRoom))
	if t == DataBlob && len(dst)-start >= len(plain) {
		return dst[:start], false
	}
	return dst, true
}

// compressUnpacked appends plain as one zstd frame to dst.
func (c *codec) compressUnpacked(dst, plain []byte) []byte { return c.tree.EncodeAll(plain, dst) }

// decompress appends the plaintext of frame to dst. A frame whose plaintext
// does not have exactly want bytes is a [kassett.Corrupt] error, found before
// memory for more is taken. A negative want stands for unknown.
func (c *codec) decompress(dst, frame []byte, want int) ([]byte, error) {
	if want < 0 {
		out, err := c.free.DecodeAll(frame, dst)
		return out, corruptFrame(err)
	}
	if want > maxPlain || want > (len(frame)+1)*maxRatio {
		return dst, corruptFrame(fmt.Errorf("%d bytes cannot hold %d", len(frame), want))
	}
	start := len(dst)
	dst = slices.Grow(dst, want)
	out, err := c.dec.DecodeAll(frame, dst[:start:start+want])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || err == nil && len(out)-start != want {
		err = fmt.Errorf("it does not hold the %d bytes it should", want)
	}
	return out, corruptFrame(err)
}

func corruptFrame(err error) error {
	if err == nil {
		return nil
	}
	return &kassett.Error{Op: "decompress", Kind: kassett.Corrupt, Err: err}
}

func (c *codec) close() {
	for _, e := range []*zstd.Encoder{c.data, c.tree} {
		if e != nil {
			_ = e.Close() // ends no stream: there is none
		}
	}
	for _, d := range []*zstd.Decoder{c.dec, c.free} {
		if d != nil {
			d.Close()
		}
	}
}

// incompressible reports whether b looks like random bytes wherever it is
// sampled. What repeats far apart inside such a blob is not found; that is rare
// and costs room, not correctness.
func incompressible(b []byte) bool {
	if len(b) < sampleFrom {
		return false
	}
	step := (len(b) - sampleSize) / (sampleCount - 1)
	for i := range sampleCount {
		if entropy(b[i*step:][:sampleSize]) < sampleBits {
			return false
		}
	}
	return true
}

// entropy returns the order-0 entropy of b in bits per byte (Shannon 1948).
func entropy(b []byte) float64 {
	var counts [256]uint32
	for ; len(b) >= 8; b = b[8:] {
		v := binary.LittleEndian.Uint64(b)
		counts[byte(v)]++
		counts[byte(v>>8)]++
		counts[byte(v>>16)]++
		counts[byte(v>>24)]++
		counts[byte(v>>32)]++
		counts[byte(v>>40)]++
		counts[byte(v>>48)]++
		counts[byte(v>>56)]++
	}
	var sum float64
	total := 0.0
	for _, n := range counts {
		if n > 0 {
			sum += float64(n) * math.Log2(float64(n))
			total += float64(n)
		}
	}
	if total == 0 {
		return 0
	}
	return math.Log2(total) - sum/total
}
