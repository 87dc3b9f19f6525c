package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/der"
)

// Market data is carried, not interpreted. What the reference leaves open in it, the rates and charges,
// is a sequence of any elements (SET §10.1).

// MarketSpecSaleData is what one trade adds to a sale (SET §5.7).
type MarketSpecSaleData struct {
	MarketSpecDataID  *MarketSpecDataID  `der:"opt"`
	MarketSpecCapData *MarketSpecCapData `der:"[0]e opt"`
}

// MarketSpecCapData is the data of one trade (SET §5.7).
type MarketSpecCapData struct {
	der.Choice
	Auto      *MarketAutoCap      `der:"[0]"`
	Hotel     *MarketHotelCap     `der:"[1]"`
	Transport *MarketTransportCap `der:"[2]"`
}

// MarketAutoCap is a car rental (SET §10.1).
type MarketAutoCap struct {
	RenterName            Text29      `der:"[0]e opt"`
	RentalLocation        *Location   `der:"[1] opt"`
	RentalDateTime        *DateTime   `der:"[2] opt"`
	AutoNoShow            *AutoNoShow `der:"[3] opt"`
	RentalAgreementNumber Text25      `der:"[4]e opt"`
	ReferenceNumber       Text8       `der:"[5]e opt"`
	InsuranceType         Text20      `der:"[6]e opt"`
	AutoRateInfo          []der.Raw   `der:"[7] opt"`
	ReturnLocation        *Location   `der:"[8] opt"`
	ReturnDateTime        *DateTime   `der:"[9] opt"`
	AutoCharges           []der.Raw   `der:"[10] opt"`
}

// AutoNoShow says what car was not fetched (SET §10.1).
type AutoNoShow int

// The cars not fetched.
const (
	AutoNoShowNormalVehicle  AutoNoShow = 0
	AutoNoShowSpecialVehicle AutoNoShow = 1
)

// MarketHotelCap is a hotel stay (SET §10.1).
type MarketHotelCap struct {
	ArrivalDate          time.Time
	DepartureDate        *time.Time     `der:"opt"`
	DurationOfStay       *StayDays      `der:"[0] opt"`
	FolioNumber          Text25         `der:"[1]e opt"`
	HotelNoShow          *HotelNoShow   `der:"[2] opt"`
	PropertyPhone        Phone          `der:"[3]e opt"`
	CustomerServicePhone Phone          `der:"[4]e opt"`
	ProgramCode          Text2          `der:"[5]e opt"`
	HotelRateInfo        *HotelRateInfo `der:"[6] opt"`
	HotelCharges         []der.Raw      `der:"[7] opt"`
}

// StayDays is a number of days, or 0.
type StayDays int64

// DERType gives the bounds of a StayDays.
func (StayDays) DERType() der.Type { return der.Type{Kind: der.Integer, Min: 0, Max: 99} }

// HotelNoShow says what a guest who did not come had reserved (SET §10.1).
type HotelNoShow int

// HotelNoShowGuaranteedLateArrival is the only value that SET has.
const HotelNoShowGuaranteedLateArrival HotelNoShow = 0

// HotelRateInfo is the price of a night (SET §10.1).
type HotelRateInfo struct {
	DailyRoomRate CurrencyAmount
	DailyTaxRate  *CurrencyAmount `der:"opt"`
}

// MarketTransportCap is a journey (SET §10.1).
type MarketTransportCap struct {
	PassengerName    Text20
	DepartureDate    time.Time
	OrigCityAirport  Text5
	TripLegSeq       []TripLeg     `der:"opt size=1..16"`
	TicketNumber     Text15        `der:"[0]e opt"`
	TravelAgencyCode Text8         `der:"[1]e opt"`
	TravelAgencyName Text25        `der:"[2]e opt"`
	Restrictions     *Restrictions `der:"[3] opt"`
}

// TripLeg is one leg of a journey (SET §10.1).
type TripLeg struct {
	DateOfTravel    time.Time
	CarrierCode     Text4
	ServiceClass    Text2
	StopOverCode    StopOverCode
	DestCityAirport Text5
	FareBasisCode   Text6           `der:"[0]e opt"`
	DepartureTax    *CurrencyAmount `der:"[1] opt"`
}

// StopOverCode says whether the passenger may stop over (SET §10.1).
type StopOverCode int

// Whether the passenger may stop over.
const (
	NoStopOver      StopOverCode = 0
	StopOverAllowed StopOverCode = 1
)

// Restrictions of a ticket (SET §10.1).
type Restrictions int

// UnspecifiedRestriction is the only restriction that SET has.
const UnspecifiedRestriction Restrictions = 0

// CommercialCardData is the invoice of a purchase with a company's card (SET §10.1).
type CommercialCardData struct {
	ChargeInfo       *ChargeInfo `der:"[0] opt"`
	MerchantLocation *Location   `der:"[1] opt"`
	ShipFrom         *Location   `der:"[2] opt"`
	ShipTo           *Location   `der:"[3] opt"`
	ItemSeq          []Item      `der:"[4] opt size=1..999"`
}

// ChargeInfo is what an invoice adds to its items (SET §10.1).
type ChargeInfo struct {
	TotalFreightShippingAmount *CurrencyAmount `der:"[0] opt"`
	TotalDutyTariffAmount      *CurrencyAmount `der:"[1] opt"`
	TotalTaxAmount             *CurrencyAmount `der:"[2] opt"`
	TotalDiscountAmount        *CurrencyAmount `der:"[3] opt"`
}

// Item is one line of an invoice (SET §10.1).
type Item struct {
	Quantity          Positive `der:"default=1"` // required: there is no quantity 0
	UnitOfMeasureCode Text2    `der:"[0]e opt"`
	Descriptor        Text35
	CommodityCode     Text15          `der:"[1]e opt"`
	ProductCode       Text12          `der:"[2]e opt"`
	UnitCost          *CurrencyAmount `der:"[3] opt"`
	NetCost           CurrencyAmount  `der:"[4]"`
	CostSign          bool            `der:"default=false"`
}

var (
	autoNoShowNames   = names{0, []string{"normalVehicle", "specialVehicle"}}
	hotelNoShowNames  = names{0, []string{"guaranteedLateArrival"}}
	stopOverCodeNames = names{0, []string{"noStopOver", "stopOverAllowed"}}
	restrictionsNames = names{0, []string{"unspecifiedRestriction"}}
)

func (n AutoNoShow) String() string   { return autoNoShowNames.of(int(n)) }
func (n HotelNoShow) String() string  { return hotelNoShowNames.of(int(n)) }
func (c StopOverCode) String() string { return stopOverCodeNames.of(int(c)) }
func (r Restrictions) String() string { return restrictionsNames.of(int(r)) }

// DERType makes each an ENUMERATED of its values.
func (AutoNoShow) DERType() der.Type   { return autoNoShowNames.derType() }
func (HotelNoShow) DERType() der.Type  { return hotelNoShowNames.derType() }
func (StopOverCode) DERType() der.Type { return stopOverCodeNames.derType() }
func (Restrictions) DERType() der.Type { return restrictionsNames.derType() }
