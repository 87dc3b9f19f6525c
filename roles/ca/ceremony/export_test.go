package ceremony

// Readable gives the readable form of a transcript that anybody wrote.
func Readable(raw []byte) ([]byte, error) {
	v := &verification{Report: &Report{}}
	if err := v.readLines(raw); err != nil {
		return nil, err
	}
	return render(v.lines, raw), nil
}

// ReadTranscript is how a verification reads a transcript.
func ReadTranscript(raw []byte) (lines int, err error) {
	v := &verification{Report: &Report{}}
	err = v.readLines(raw)
	return len(v.lines), err
}
