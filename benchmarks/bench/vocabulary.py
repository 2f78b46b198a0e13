"""Common English words: short ones that tokenizers know whole, most of them."""

from __future__ import annotations

WORDS: tuple[str, ...] = tuple(
    """
    a able about above across act add after again against age ago agree air all allow almost alone along already also always am among an
    and animal another answer any appear apple are area arm around arrive art as ask at away baby back bad bag ball bank base be bear beat
    beautiful became because become bed been before began begin behind believe below best better between big bird black blood blow blue
    board boat body bone book born both bottom bought box boy branch bread break bright bring broke brother brought brown build building
    burn business but buy by call came can capital captain car card care carry case cat catch caught cause cell center century certain
    chair chance change character charge chart check chief child children choose church circle city class clean clear climb clock close
    clothes cloud coast cold collect color column come common company compare complete condition consider contain continue control cook
    cool copy corn corner correct cost could count country couple course cover create cross crowd cry current cut dance dark daughter day
    dead deal dear death decide deep degree depend describe desert design develop did die difference difficult direct discuss distance
    divide do doctor does dog dollar done door double down draw dream dress drink drive drop dry during each ear early earth ease east easy
    eat edge effect egg eight either electric element else end enemy energy engine enough enter equal even evening event ever every exact
    example except excite exercise expect experience experiment eye face fact fair fall family famous far farm fast father favor fear feed
    feel feet fell felt few field fight figure fill final find fine finger finish fire first fish fit five flat floor flow flower fly
    follow food foot for force forest form forward found four free fresh friend from front fruit full fun game garden gas gather gave
    general gentle get girl give glad glass go gold gone good got govern grand grass gray great green grew ground group grow guess guide
    gun had hair half hand happen happy hard has hat have he head hear heard heart heat heavy held help her here high hill him his history
    hit hold hole home hope horse hot hour house how huge human hundred hunt hurry husband ice idea if imagine in inch include increase
    industry insect instant interest into iron is island it job join joy jump just keep kept key kill kind king knew know lady lake land
    language large last late laugh law lay lead learn least leave left leg length less let letter level lie life lift light like line
    liquid list listen little live local log lone long look lost lot love low machine made magnet main major make man many map mark market
    mass master match material matter may me mean measure meat meet men method middle might mile milk million mind mine minute miss mix
    modern moment money month moon more morning most mother motion mountain mouth move much music must my name nation natural nature near
    necessary neck need neighbor never new next night nine no noise noon nor north nose note nothing notice noun now number object observe
    ocean of off offer office often oil old on once one only open operate or orange order other our out over own page paint pair paper
    parent part party pass past path pattern pay people period person phrase pick picture piece place plain plan plane planet plant play
    please point poor position possible post pound power practice prepare present press pretty print problem process produce product
    property protect proud prove provide pull push put quart question quick quiet quite race radio rail rain raise ran range rate rather
    reach read ready real reason receive record red region remember repeat reply report represent rest result rich ride right ring rise
    river road rock roll room root rope rose round row rule run safe said sail salt same sand sat save saw say scale school science sea
    season seat second section see seed seem seen select self sell send sense sent sentence separate serve set settle seven several shall
    shape share sharp she sheet ship shoe shop shore short should shoulder shout show side sight sign silent silver similar simple since
    sing single sister sit six size skill skin sky sleep slip slow small smell smile snow so soft soil soldier solution solve some son song
    soon sound south space speak special speech speed spell spend spoke spot spread spring square stand star start state station stay steam
    steel step stick still stone stood stop store story straight strange stream street strong student study subject success such sudden
    sugar suggest suit summer sun supply support sure surface surprise swim system table tail take talk tall teach team tell temperature
    ten term test than thank that the their them then there these they thick thin thing think third this those though thought thousand
    three through throw thus tie time tiny tire to together told tone too took tool top total touch toward town track trade train travel
    tree triangle trip trouble truck true try tube turn twenty two type under unit until up us use usual valley value vary very view
    village visit voice vowel wait walk wall want war warm was wash watch water wave way we wear weather week weight well went were west
    what wheel when where whether which while white who whole whose why wide wife wild will win wind window winter wire wish with woman
    women wonder wood word work world would write written wrong yard year yellow yes yet you young your
    """.split()
)
