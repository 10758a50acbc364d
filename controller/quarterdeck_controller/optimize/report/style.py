"""How the page looks: on paper, on a phone, in the light and in the dark."""

STYLE = """
:root{color-scheme:light dark;--ink:#1b2530;--soft:#5b6875;--line:#dde3e8;
--page:#fff;--card:#f6f8fa;--good:#17806d;--bad:#c1272d;--warn:#a86400;
--blue:#2b6cb0;--grey:#9aa7b3;--int1:#17806d;--int2:#3fa492;--int3:#7cc4b6;
--flt1:#8795a3;--flt2:#a9b4be;--flt3:#c6ced5;--conv:#e0922f}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa8b5;--line:#2d3842;
--page:#12181e;--card:#1a222a;--good:#4cc3ac;--bad:#ff7b72;--warn:#e3a84b;
--blue:#79b0ea;--grey:#6c7a87;--int1:#2a9d86;--int2:#1f7a69;--int3:#175a4e;
--flt1:#6f7d8a;--flt2:#566370;--flt3:#414c57;--conv:#c77d1e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:74rem;padding:1.2rem 1rem 4rem;background:var(--page);
color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.7rem;margin:.2rem 0;line-height:1.2}
h2{font-size:1.35rem;margin:0 0 .3rem}
h3{font-size:1.02rem;margin:1.9rem 0 .4rem}
p{margin:.35rem 0;max-width:62rem}
.soft,.note{color:var(--soft)}.note{font-size:.88rem}
code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
font-size:.9em;overflow-wrap:anywhere}
section.class{border-top:1px solid var(--line);margin-top:2.6rem;padding-top:1.6rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));
gap:.9rem;margin:1.1rem 0}
.card{background:var(--card);border:1px solid var(--line);border-left:5px solid
var(--bad);border-radius:8px;padding:.8rem 1rem}
.card.accepted{border-left-color:var(--good)}
.card h2{font-size:1.05rem;margin:0}.card a{color:inherit;text-decoration:none}
.card dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.4rem,1fr));
gap:.45rem .8rem;margin:.6rem 0 .4rem}
.card dt{color:var(--soft);font-size:.78rem}
.card dd{margin:0 0 .1rem;font-weight:600;font-variant-numeric:tabular-nums}
.card dd small{display:block;font-size:.8rem;font-weight:400;color:var(--soft)}
.badge{font-size:.78rem;font-weight:700;letter-spacing:.02em;color:var(--bad)}
.accepted .badge,.badge.accepted{color:var(--good)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));
gap:1.2rem}
figure{margin:.4rem 0;min-width:0}figcaption{color:var(--soft);font-size:.86rem}
svg.plot{width:100%;height:auto;max-width:40rem;display:block}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
fill:var(--ink)}
svg .tick{fill:var(--soft);font-size:10px}svg .name{fill:var(--soft)}
svg .grid{stroke:var(--line);stroke-width:1}
svg .limit{stroke:var(--bad);stroke-width:1.2;stroke-dasharray:5 4}
svg .limit-name{fill:var(--bad);font-size:10px}
svg .lead{stroke:var(--soft);stroke-width:.7}
svg .mark{fill:var(--blue);fill-opacity:.3;stroke:var(--blue);stroke-width:1.5}
svg .mark.over{fill:var(--bad);stroke:var(--bad);fill-opacity:.12;
stroke-dasharray:3 2}
svg .mark.fits{fill:var(--grey);stroke:var(--grey)}
svg .mark.taken{fill:var(--good);stroke:var(--good);fill-opacity:.55;stroke-width:2.5}
svg .mark.float{fill:none;stroke:var(--ink)}
svg .spot{font-size:10.5px;paint-order:stroke;stroke:var(--page);
stroke-width:2.5px;stroke-linejoin:round}
svg .spot.taken{font-weight:700;fill:var(--good)}
svg .spot.over{fill:var(--bad)}
svg .count{fill:var(--blue)}svg .clipped{fill:var(--bad)}
svg .range{fill:var(--good);fill-opacity:.12}
svg .curve{fill:none;stroke:var(--blue);stroke-width:2}
svg .dot{fill:var(--blue)}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;
min-width:min(100%,20rem)}
table.wide{width:100%}table.narrow td:last-child{padding-right:0}
th{text-align:left;color:var(--soft);font-weight:600;font-size:.8rem;
white-space:nowrap}
td,th{padding:.28rem .7rem .28rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
.num{text-align:right;white-space:nowrap}
td.word{font-weight:600;white-space:nowrap}
.taken{color:var(--good)}tr.taken td{background:var(--card)}
tr.taken td:not(.word){color:var(--ink)}
.over,.failed{color:var(--bad)}
tr.over td:not(.word),tr.failed td:not(.word){color:var(--ink)}
td.recipe{min-width:15rem;overflow-wrap:anywhere}td.why{min-width:15rem}
td.mono{min-width:10.5rem}
.track{display:block;min-width:7rem;height:.78rem;background:var(--card);
border-radius:3px;overflow:hidden;margin-top:.3rem}
.bar{display:block;height:100%;background:var(--blue)}
.bar.float,.bar.half{background:var(--flt1)}.bar.weights,.bar.weights4{background:
var(--grey)}.bar.dynamic{background:var(--conv)}.bar.wide{background:var(--warn)}
.bar.lower{background:var(--bad)}.bar.higher{background:var(--good)}
.key{display:inline-block;width:.75rem;height:.75rem;border-radius:2px;
vertical-align:-.06rem;margin-right:.3rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.84rem;
color:var(--soft);margin:.3rem 0;padding:0;list-style:none}
.stack{display:flex;height:1.5rem;border-radius:4px;overflow:hidden;margin:.1rem 0
.5rem;max-width:100%}
.stack span{display:block;height:100%;overflow:hidden;white-space:nowrap;color:#fff;
font-size:.72rem;line-height:1.5rem;padding-left:.25rem;border-right:1px solid
var(--page)}
.i0{background:var(--int1)}.i1{background:var(--int2)}.i2{background:var(--int3)}
.f0{background:var(--flt1)}.f1{background:var(--flt2)}.f2{background:var(--flt3)}
.stack .f1,.stack .f2,.stack .i2{color:var(--ink)}
.q0{background:var(--conv)}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--soft)}
ul{margin:.3rem 0;padding-left:1.2rem}
@media(max-width:34rem){body{padding:.8rem .8rem 3rem}h1{font-size:1.35rem}
td,th{padding-right:.55rem}
.track{min-width:4.5rem}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--page:#fff;
--card:#f4f4f4;--line:#ccc}body{max-width:none;padding:0;font-size:10.5pt}
section.class{break-before:page}figure,.card,tr{break-inside:avoid}
.scroll{overflow:visible}table{font-size:8.5pt}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
