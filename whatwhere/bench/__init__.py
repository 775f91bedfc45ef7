"""How fast, against what others offer: the benchmarks behind `whatwhere bench`.

    cases            shapes and the plan, as data
    implementations  what is compared: raw q, k, v in, output out, the encoding included
    bare             attention alone, over features made beforehand
    truth            the gate: every implementation against float64 before it is timed
    measure          device time and peak memory of a callable
    attention        rows of the plan, one at a time
    model            tokens per second of a whole model, RoPE beside PoPE
    ledger           the file of rows: who measured, and what need not be measured again

Nothing here is imported by the library. A row is one measurement (JSON); tables and figures are
functions of rows (`whatwhere.report.speed`).
"""
