//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const (
	imageCount = 128
	imageSize  = 8 << 20 // bytes, on average
	imageSeed  = 3
)

func generateImages(dir string, scale float64) error {
	return each(scaled(imageCount, scale, 2), func(i int) error { return writeFile(imagePath(dir, i), image(i)) })
}

func imagePath(dir string, i int) string {
	return filepath.Join(dir, "2026", fmt.Sprintf("%02d", 1+i/40%12), fmt.Sprintf("study%04d", i/40), fmt.Sprintf("series%d", i/20%2), fmt.Sprintf("IM%06d.dcm", i))
}

// image returns the i-th file: a DICOM header, and pixels that are either
// noise, as those of a compressed transfer syntax look to us, or 12 bits in 16,
// smooth and a little noisy.
func image(i int) []byte {
	r := seeded(imageSeed, i)
	compressed := i%2 == 0
	b := dicomHeader(i, compressed)
	pixels := int(imageSize*(0.75+0.5*r.Float64())) - len(b)
	b = append(b, make([]byte, pixels&^1)...)
	p := b[len(b)-pixels&^1:]
	if compressed {
		fillRandom(r, p)
	} else {
		fillSamples(r, p)
	}
	return b
}

func fillRandom(r *rand.Rand, p []byte) {
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, r.Uint64())
	}
	for i := range p {
		p[i] = byte(r.Uint32())
	}
}

func fillSamples(r *rand.Rand, p []byte) {
	const width = 2048
	fx, fy, phase := 1+3*r.Float64(), 1+3*r.Float64(), 6*r.Float64()
	var row [width]float64
	for x := range row {
		row[x] = 700 * math.Sin(fx*float64(x)/width*6+phase)
	}
	rows := len(p)/2/width + 1
	for k := range len(p) / 2 {
		x, y := k%width, k/width
		if x == 0 {
			phase = 2000 + 700*math.Cos(fy*float64(y)/float64(rows)*6)
		}
		u := r.Uint32()
		noise := int(u&15) + int(u>>8&15) + int(u>>16&15) - 22
		binary.LittleEndian.PutUint16(p[2*k:], uint16(min(4095, max(0, int(phase+row[x])+noise))))
	}
}

// dicomHeader returns the beginning of a DICOM file: PS3.10, section 7.1.
func dicomHeader(i int, compressed bool) []byte {
	b := append(make([]byte, 128), "DICM"...)
	element := func(group, number uint16, vr, value string) {
		if len(value)%2 == 1 {
			value += " "
		}
		b = binary.LittleEndian.AppendUint16(b, group)
		b = binary.LittleEndian.AppendUint16(b, number)
		b = append(b, vr...)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(b, value...)
	}
	syntax := "1.2.840.10008.1.2.1 "
	if compressed {
		syntax = "1.2.840.10008.1.2.4.90"
	}
	study := i / 40
	element(0x0002, 0x0002, "UI", "1.2.840.10008.5.1.4.1.1.2 ")
	element(0x0002, 0x0003, "UI", fmt.Sprintf("2.999.%d.%d", study, i))
	element(0x0002, 0x0010, "UI", syntax)
	element(0x0008, 0x0020, "DA", fmt.Sprintf("2026%02d%02d", 1+study%12, 1+i%28))
	element(0x0008, 0x0060, "CS", []string{"CT", "MR", "DX", "MG"}[study%4])
	element(0x0008, 0x0080, "LO", "SYNTHETIC HOSPITAL")
	element(0x0010, 0x0010, "PN", fmt.Sprintf("SYNTHETIC^PATIENT%05d", study))
	element(0x0010, 0x0020, "LO", fmt.Sprintf("SYN%08d", study*7919))
	element(0x0020, 0x0013, "IS", fmt.Sprint(i%40+1))
	element(0x0028, 0x0100, "US", "\x10\x00")
	element(0x0028, 0x0101, "US", "\x0c\x00")
	return b
}

// changeImages corrects a name in the header of one image of a hundred, and
// adds as many new ones: archives grow more than they change.
func changeImages(dir string, seed uint64) error {
	var files []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	r := seeded(seed+2000, 0)
	for k := range max(1, len(files)/100) {
		f, err := os.OpenFile(files[r.IntN(len(files))], os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(fmt.Appendf(nil, "CORRECTED^%08d", r.IntN(1e8)), 300)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		i := 100_000*int(seed) + k
		if err := writeFile(imagePath(dir, i), image(i)); err != nil {
			return err
		}
	}
	return nil
}
