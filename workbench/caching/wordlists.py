"""Words that the guard knows: plain tables of general English and of software, written down from general knowledge."""

NEGATIONS = frozenset({"not", "no", "never", "without", "cannot", "cant", "dont", "doesnt", "isnt", "wont"})
ANTONYMS = (
    ("enable", "disable"), ("on", "off"), ("increase", "decrease"), ("raise", "lower"), ("before", "after"),
    ("with", "without"), ("start", "stop"), ("open", "close"), ("add", "remove"), ("activate", "deactivate"),
    ("import", "export"), ("upgrade", "downgrade"), ("buy", "sell"), ("first", "last"), ("minimum", "maximum"),
)  # fmt: skip
EMPTY = frozenset({
    "a", "an", "the", "of", "in", "is", "are", "was", "were", "be", "do", "does", "did", "i", "my", "me", "you",
    "your", "we", "our", "it", "its", "this", "that",
})  # fmt: skip

# Words whose presence changes no question. Not here: prepositions of direction, quantities, negations.
_FILLER = """
    a an the this that these those it its he she they them their there here i me my mine we us our ours you your yours
    is are was were be been being am do does did done has have had having will would can could should shall may might
    must of for in at by to as so if then than and or but s d ll m re ve t
    how what which who whose why where when whats hows
    want wants wanted need needs needed like get gets getting got give gives given show shows tell help way ways
    possible possibly question quick please thanks thank hi hello hey sorry bother
    return returns too some such very really actually exactly simply somehow just also ever
    let make makes made use uses used using try trying know
"""
FILLER = frozenset(_FILLER.split())

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: str(number) for number, word in enumerate(_NUMBERS.split())}

# Each line: one side / the other side; a text that takes one side does not meet a text that takes the other.
_OPPOSITES = """
    enable enabled activate / disable disabled deactivate
    on / off
    with including / without excluding
    increase grow / decrease shrink reduce
    before / after
    earlier / later
    previous preceding prior / next following subsequent
    start starts begin beginning / end ends ending finish
    start begin launch / stop halt abort
    open / close closed
    add append insert / remove delete drop
    keep keeps kept retain preserve stay stays / drop drops discard discards lose remove removes delete throw thrown
    keep preserve stay / overwrite replace change clobber
    import / export
    load / save store
    read reads reading reader / write writes writing writer written
    upload / download
    send / receive
    push / pull
    get / set
    buy / sell
    upgrade / downgrade
    first earliest / last latest
    minimum min smallest lowest least / maximum max largest highest biggest greatest most
    small smaller / large larger big bigger
    low lower / high higher
    above over / below under
    up upward upwards / down downward downwards
    top head / bottom tail
    left / right
    front / back rear
    left leading / right trailing
    inner inside internal / outer outside external
    ascending asc increasing / descending desc decreasing
    forward forwards forth ffill / backward backwards bfill
    row rows rowwise horizontal horizontally / column columns columnwise vertical vertically
    wide / long
    big / little
    true yes / false no
    allow permit accept / forbid deny reject refuse prohibit
    include includes included inclusive / exclude excludes excluded exclusive
    encode / decode
    encrypt / decrypt
    compress zip / decompress uncompress unzip
    pack / unpack
    serialize serialise dump / deserialize deserialise
    lock / unlock
    mount / unmount
    install / uninstall
    register / unregister
    subscribe / unsubscribe
    connect join / disconnect leave
    attach / detach
    show display / hide
    split / join concat concatenate merge
    union / intersection
    stack / unstack
    pivot / unpivot melt
    wrap / unwrap
    nest / unnest flatten explode
    sort / shuffle
    same identical equal equals / different differs differ unequal
    all every / none
    any / none
    always / never
    local / remote
    public / private
    absolute / relative
    static / dynamic
    sync synchronous / async asynchronous
    eager eagerly / lazy lazily
    mutable / immutable
    signed / unsigned
    positive / negative
    even / odd
    strict / lenient
    sparse / dense
    shallow / deep
    parent / child
    client / server
    input / output
    source / target destination
    old older / new newer
    ignore skip / raise
    silence suppress / warn
    valid / invalid
    success succeed pass / failure fail
    manual manually / automatic automatically
    temporary temporarily / permanent permanently
    optional / required mandatory
    numerator / denominator
    sum add plus / difference subtract minus
    multiply / divide
    round floor / ceil ceiling
    floor down / ceil ceiling up
    population / sample
    weekday weekdays / weekend weekends
    morning / evening
    day daily / night nightly
    fast faster / slow slower
    cheap cheaper / expensive
    more / less fewer
    longer / shorter
    single / multiple
    full / empty
    create / destroy
    win / lose
    accept / decline
    approve / reject
    archive / restore
    login / logout
    hot / cold
    north / south
    east / west
"""
OPPOSITES = tuple(
    tuple(frozenset(side.split()) for side in line.split("/")) for line in _OPPOSITES.strip().splitlines()
)

_SYNONYMS = """
    each every all
    fewer less
    folder directory
    dataframe frame df dataframes frames
    mean average avg
    error exception
    maximum max largest biggest
    minimum min smallest
    delete remove
    entire whole full
    only just
    show display
    text string str
    picture image
    convert turn transform
    fast quickly
    begin start
    end finish
    allowed permitted
    normal expected
    function method
"""
SYNONYMS = {word: line.split()[0] for line in _SYNONYMS.strip().splitlines() for word in line.split()}

# Libraries, products, languages and file formats, with the short names that code gives them.
_NAMES = """
    pandas pd; polars pl; numpy np; pyarrow pa pc pq arrow; scipy; matplotlib plt; seaborn sns; plotly; bokeh; altair;
    sklearn scikit; tensorflow tf; pytorch torch; jax; keras; cupy; numba; dask; spark pyspark; modin; vaex; xarray;
    duckdb; sqlite; postgres postgresql; mysql; mariadb; oracle; mongodb mongo; redis; cassandra; snowflake; bigquery;
    redshift; clickhouse; elasticsearch; kafka; airflow; dbt; django; flask; fastapi; react; angular; vue;
    s3; aws; azure; gcp gcs; excel xlsx xls; csv; tsv; json; ndjson jsonl; parquet; feather; orc; avro; hdf hdf5; xml;
    html; yaml; toml; pdf; gzip gz; zstd; snappy; lz4; python; java; javascript js; typescript ts; rust; golang;
    ruby; julia; matlab; cython; fortran; sql; windows; linux; macos; ubuntu; debian; android; ios; chrome; firefox;
    safari; slack; teams; jira; trello; github; gitlab; docker; kubernetes k8s; okta; stripe; paypal
"""
NAMES = {word: group.split()[0] for group in _NAMES.split(";") for word in group.split()}
