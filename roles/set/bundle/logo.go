package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image/png"
	"slices"
)

// The chunks that an image needs (PNG 3rd edition §11). All others are text, dates and other things that
// nobody sees.
var pngChunks = []string{"IHDR", "PLTE", "tRNS", "IDAT", "IEND"}

const (
	pngSignature   = "\x89PNG\r\n\x1a\n"
	pngChunkFrame  = 12 // length, type and checksum
	pngChunkPrefix = 8  // length and type
)

// NewLogo makes a logo of a PNG image, without what the image has beside its pixels.
func NewLogo(image []byte) (Logo, error) {
	if err := checkDimensions(image); err != nil {
		return nil, err
	}
	img, err := png.Decode(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("PNG image: %w", err)
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, img); err != nil {
		return nil, err
	}
	logo := Logo(out.Bytes())
	return logo, logo.check()
}

// check refuses what is not a PNG image, or is more than that. No logo is fine.
func (l Logo) check() error {
	if l == nil {
		return nil
	}
	if len(l) > LogoSizeMax {
		return fmt.Errorf("image of %d octets, at most %d are allowed", len(l), LogoSizeMax)
	}
	if err := checkDimensions(l); err != nil {
		return err
	}
	if err := checkChunks(l); err != nil {
		return err
	}
	if _, err := png.Decode(bytes.NewReader(l)); err != nil {
		return fmt.Errorf("PNG image: %w", err)
	}
	return nil
}

// checkDimensions comes before the pixels are decoded, which a few octets can make very many.
func checkDimensions(image []byte) error {
	size, err := png.DecodeConfig(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("want a PNG image: %w", err)
	}
	if size.Width > LogoPixelsMax || size.Height > LogoPixelsMax {
		return fmt.Errorf("image of %d x %d pixels, at most %d x %d are allowed", size.Width, size.Height, LogoPixelsMax, LogoPixelsMax)
	}
	return nil
}

func checkChunks(image []byte) error {
	rest := image[len(pngSignature):]
	for {
		if len(rest) < pngChunkFrame {
			return errors.New("PNG image without its end")
		}
		length, name := binary.BigEndian.Uint32(rest), string(rest[4:pngChunkPrefix])
		if !slices.Contains(pngChunks, name) {
			return errors.New("PNG image with more than its pixels")
		}
		if int64(length) > int64(len(rest)-pngChunkFrame) {
			return errors.New("PNG image cut short")
		}
		rest = rest[pngChunkFrame+int(length):]
		if name != "IEND" {
			continue
		}
		if length > 0 || len(rest) > 0 {
			return errors.New("PNG image with something after its end")
		}
		return nil
	}
}
