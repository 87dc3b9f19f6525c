// A reader driver that adds a keypad to vpcd's. Somebody has typed 123456 on it, or
// 654321 where a new PIN is wanted. It takes the structures apart as pcsc-lite's
// reader.h declares them.

#include <string.h>
#include <ifdhandler.h>
#include <reader.h>

enum { VERIFY = 0x42330006, MODIFY = 0x42330007, PROPERTIES = 0x42330012 };

static const unsigned char features[] = {
	FEATURE_VERIFY_PIN_DIRECT, 4, 0x42, 0x33, 0x00, 0x06,
	FEATURE_MODIFY_PIN_DIRECT, 4, 0x42, 0x33, 0x00, 0x07,
	FEATURE_GET_TLV_PROPERTIES, 4, 0x42, 0x33, 0x00, 0x12,
};

static const unsigned char properties[] = {
	PCSCv2_PART10_PROPERTY_wLcdLayout, 2, 0x10, 0x02,
	PCSCv2_PART10_PROPERTY_dwMaxAPDUDataSize, 4, 0x00, 0x00, 0x01, 0x00,
};

static RESPONSECODE answer(const void *from, DWORD n, PUCHAR rx, DWORD max, LPDWORD returned)
{
	if (n > max)
		return IFD_COMMUNICATION_ERROR;
	memcpy(rx, from, n);
	*returned = n;
	return IFD_SUCCESS;
}

// send puts one or two PINs into a command and sends it to the card.
static RESPONSECODE send(DWORD lun, const unsigned char *command, DWORD n, int second, PUCHAR rx, DWORD max, LPDWORD returned)
{
	unsigned char filled[64];
	SCARD_IO_HEADER in = { 1, sizeof in }, out;

	if (n > sizeof filled || n < 13)
		return IFD_COMMUNICATION_ERROR;
	memcpy(filled, command, n);
	memcpy(filled + 5, "123456", 6);
	if (second >= 0)
		memcpy(filled + 5 + second, "654321", 6);
	*returned = max;
	return IFDHTransmitToICC(lun, in, filled, n, rx, returned, &out);
}

RESPONSECODE IFDHControl(DWORD lun, DWORD code, PUCHAR tx, DWORD n, PUCHAR rx, DWORD max, LPDWORD returned)
{
	static const unsigned char refused[] = { 0x6B, 0x80 };
	const PIN_VERIFY_STRUCTURE *v = (const void *)tx;
	const PIN_MODIFY_STRUCTURE *m = (const void *)tx;

	*returned = 0;
	switch (code) {
	case CM_IOCTL_GET_FEATURE_REQUEST:
		return answer(features, sizeof features, rx, max, returned);
	case PROPERTIES:
		return answer(properties, sizeof properties, rx, max, returned);
	case VERIFY:
		if (n < sizeof *v || n != sizeof *v + v->ulDataLength || v->bmFormatString != 0x82 || v->bmPINBlockString != 8 ||
		    v->wPINMaxExtraDigit != 0x0608 || v->bEntryValidationCondition != 2 || v->bNumberMessage != 1 || v->wLangId != 0x0409)
			return answer(refused, sizeof refused, rx, max, returned);
		return send(lun, v->abData, v->ulDataLength, -1, rx, max, returned);
	case MODIFY:
		if (n < sizeof *m || n != sizeof *m + m->ulDataLength || m->bmFormatString != 0x82 || m->bmPINBlockString != 8 ||
		    m->bInsertionOffsetOld != 0 || m->wPINMaxExtraDigit != 0x0608 || m->bConfirmPIN != 3 ||
		    m->bEntryValidationCondition != 2 || m->bNumberMessage != 3 || m->wLangId != 0x0409 ||
		    m->bMsgIndex1 != 0 || m->bMsgIndex2 != 1 || m->bMsgIndex3 != 2)
			return answer(refused, sizeof refused, rx, max, returned);
		return send(lun, m->abData, m->ulDataLength, m->bInsertionOffsetNew, rx, max, returned);
	}
	return IFD_ERROR_NOT_SUPPORTED;
}
