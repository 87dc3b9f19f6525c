package iso7816

import "fmt"

const (
	insGetResponse = 0xC0

	swSuccess    = 0x9000
	sw1MoreData  = 0x61
	sw1WrongLe   = 0x6C
	roundsMax    = 300  // GET RESPONSE rounds: ResponseBytesMax in pieces of 256, and room
	collectBytes = 1024 // what a key operation answers fits, without being copied about
)

// Exchange sends c and returns the card's whole answer: it splits a body that
// does not fit one APDU into a chain, repeats with the right Le after 6Cxx, and
// collects the rest with GET RESPONSE after 61xx. send transmits one APDU.
//
// With extended, APDUs of extended length are used and nothing needs chaining;
// an Ne of 256 then asks for all that there is. Not every card and not every
// reader takes them; short APDUs work everywhere.
//
// An error is of send, or of an answer that is no response APDU. A status word
// of failure is no error here; the first one ends the exchange. Exchange
// overwrites every command buffer with zeros after it was sent, because it may
// have held a PIN.
func Exchange(send func(apdu []byte) ([]byte, error), c Command, extended bool) (Response, error) {
	if extended {
		if c.Ne == ResponseShortBytesMax {
			c.Ne = ResponseBytesMax
		}
		return collect(send, c, Command.ExtendedAPDU)
	}
	for len(c.Data) > DataShortBytesMax {
		part := Command{CLA: c.CLA | ClassChaining, INS: c.INS, P1: c.P1, P2: c.P2, Data: c.Data[:DataShortBytesMax]}
		r, err := transmit(send, part, Command.ShortAPDU)
		if err != nil || r.SW != swSuccess {
			return r, err
		}
		c.Data = c.Data[DataShortBytesMax:]
	}
	return collect(send, c, Command.ShortAPDU)
}

// collect sends c and gathers an answer that comes in pieces.
func collect(send func([]byte) ([]byte, error), c Command, encode func(Command) ([]byte, error)) (Response, error) {
	r, err := ask(send, c, encode)
	if err != nil || r.SW>>8 != sw1MoreData {
		return r, err
	}
	whole := make([]byte, 0, collectBytes)
	whole = appendAndClear(whole, r.Data)
	for range roundsMax {
		next := Command{CLA: c.CLA, INS: insGetResponse, Ne: neOf(int(r.SW&0xFF), ResponseShortBytesMax)}
		r, err = ask(send, next, Command.ShortAPDU)
		if err != nil {
			return Response{}, err
		}
		whole = appendAndClear(whole, r.Data)
		if len(whole) > ResponseBytesMax {
			return Response{}, fmt.Errorf("iso7816: answer longer than %d bytes: %w", ResponseBytesMax, ErrMalformed)
		}
		if r.SW>>8 != sw1MoreData {
			return Response{Data: whole, SW: r.SW}, nil
		}
	}
	return Response{}, fmt.Errorf("iso7816: answer not complete after %d pieces: %w", roundsMax, ErrMalformed)
}

// ask transmits c, and once more if the card wants another Le.
func ask(send func([]byte) ([]byte, error), c Command, encode func(Command) ([]byte, error)) (Response, error) {
	r, err := transmit(send, c, encode)
	if err != nil || r.SW>>8 != sw1WrongLe || c.Ne == 0 || len(c.Data) > 0 {
		return r, err
	}
	c.Ne = neOf(int(r.SW&0xFF), ResponseShortBytesMax)
	return transmit(send, c, encode)
}

// appendAndClear moves a piece of an answer: it may be a decrypted secret.
func appendAndClear(whole, piece []byte) []byte {
	whole = append(whole, piece...)
	clear(piece)
	return whole
}

// transmit sends one APDU and clears its bytes.
func transmit(send func([]byte) ([]byte, error), c Command, encode func(Command) ([]byte, error)) (Response, error) {
	apdu, err := encode(c)
	if err != nil {
		return Response{}, err
	}
	defer clear(apdu)
	answer, err := send(apdu)
	if err != nil {
		return Response{}, err
	}
	return ParseResponse(answer)
}
