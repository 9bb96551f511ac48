"""How a report looks: colours of the plots, style sheet of the page."""

from typing import Any

INK = '#1f2328'  # of the plots; inside a page, the colour of its text instead

# Colour (Okabe and Ito's, which the colour-blind can tell apart), line style and
# marker of a stage or policy.
LOOKS = {
    'sft': ('#8a8f98', '-', 'o'),
    'ppo': ('#e69f00', '--', '^'),
    'ppo_lag': ('#0072b2', '-', 's'),
    'ppo_reward_shaping': ('#009e73', '-.', 'D'),
    'reward': ('#56b4e9', '-', 'o'),
    'cost': ('#d55e00', '--', '^'),
}
OTHER_LOOKS = (('#cc79a7', ':', 'v'), ('#d55e00', '--', 'P'), ('#56b4e9', '-', 'X'))

_INKED = ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color')
MATPLOTLIB: dict[Any, Any] = {
    'figure.figsize': (4.4, 3.1),
    'savefig.dpi': 160,
    'font.size': 9.5,
    'axes.titlesize': 10.5,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.alpha': 0.15,
    'grid.linewidth': 0.6,
    'legend.frameon': False,
    'svg.fonttype': 'none',
    'text.parse_math': False,
    **dict.fromkeys((*_INKED, 'ytick.color', 'grid.color'), INK),
}


# Colour and marker of a run among several; line styles are those of stages.
RUN_COLORS = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9')
RUN_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def run_look(index: int) -> tuple[str, str, str]:
    """Colour, line style and marker of a run, by its place among the runs."""
    color = RUN_COLORS[index % len(RUN_COLORS)]
    return color, '-', RUN_MARKERS[index % len(RUN_MARKERS)]


def look(name: str) -> tuple[str, str, str]:
    """Colour, line style and marker of a stage or policy, the same in every plot."""
    return LOOKS.get(name) or OTHER_LOOKS[sum(name.encode()) % len(OTHER_LOOKS)]


SHEET = """
:root {
  color-scheme: light dark;
  --ink: #1f2328; --soft: #5d6570; --line: #d8dce1; --paper: #ffffff;
  --wash: #f5f6f8; --safe: #0f7b52; --unsafe: #b4420a;
  --shade: #00000038;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7eb; --soft: #9aa3ae; --line: #333a42; --paper: #14171b;
    --wash: #1c2126; --safe: #4cc38a; --unsafe: #f08c50;
    --shade: #ffffff38;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 5rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -0.02em; }
h2 { font-size: 1.2rem; margin: 3rem 0 0.75rem; }
h1 + p { margin-bottom: 1.75rem; }
h3 { font-size: 1rem; margin: 0 0 0.5rem; font-weight: 600; }
p { margin: 0.25rem 0 0.75rem; max-width: 46rem; }
.soft, figcaption, th { color: var(--soft); }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 1rem;
  min-width: 0; }
/* Where a table goes on beyond an edge, a shadow lies there: covers of the paper's
   colour move with the table and hide it at the ends. */
.scroll { overflow-x: auto;
  background:
    linear-gradient(to right, var(--paper) 40%, transparent) left / 2.5rem 100% local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% local,
    linear-gradient(to right, var(--shade), transparent) left / 0.9rem 100% scroll,
    linear-gradient(to left, var(--shade), transparent) right / 0.9rem 100% scroll;
  background-repeat: no-repeat; }
.grid + .scroll, .scroll + .grid, .scroll + .scroll { margin-top: 1.25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.9rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 500; font-size: 0.85rem; vertical-align: bottom;
  white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.dot { display: inline-block; width: 0.65em; height: 0.65em; border-radius: 50%;
  margin-right: 0.45em; }
.bar { display: grid; grid-template-columns: 9.5rem 1fr 4rem; gap: 0.6rem;
  align-items: center; font-size: 0.92rem; margin-top: 0.4rem; }
.bar b { text-align: right; font-variant-numeric: tabular-nums; }
.track { background: var(--wash); border-radius: 4px; height: 0.7rem;
  position: relative; }
.track u { position: absolute; top: 50%; border-top: 1.5px solid var(--ink); }
.track s { position: absolute; top: -0.2rem; bottom: -0.2rem; width: 0;
  border-left: 1.5px solid var(--soft); }
.track i { display: block; height: 100%; border-radius: 4px; min-width: 2px; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
figcaption { font-size: 0.85rem; }
.sample { margin-top: 1rem; }
.sample .grid { gap: 0; margin-top: 0.75rem; border-top: 1px solid var(--line);
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
.answer { padding: 0.75rem 1rem 0.25rem 0; min-width: 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16rem;
  overflow-y: auto; margin: 0.3rem 0; }
.score { font-size: 0.82rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.safe { color: var(--safe); } .unsafe { color: var(--unsafe); }
@media (max-width: 30rem) {
  th, td { padding: 0.4rem 0.45rem; white-space: normal; }
  .bar { grid-template-columns: 8rem 1fr 3.6rem; }
  #filter { position: static !important; }
}
td .soft { white-space: nowrap; }
.named th:nth-child(2), .named td:nth-child(2) { text-align: left; }
.values th, .values td { text-align: left; vertical-align: top; }
.values td + td { white-space: normal; overflow-wrap: anywhere; min-width: 8rem;
  max-width: 24rem; }
.scroll + h3 { margin-top: 1.75rem; }
.single { grid-template-columns: minmax(0, 44rem); }
.runs { list-style: none; margin: 0 0 1.25rem; padding: 0; }
.note { border-color: var(--unsafe); }
.note p:last-child { margin-bottom: 0; }
#filter { display: flex; flex-wrap: wrap; gap: 0.6rem 1rem; align-items: baseline;
  position: sticky; top: 0; background: var(--paper); padding: 0.6rem 0; }
#filter label, #filter output { color: var(--soft); font-size: 0.9rem; }
#filter input, #filter select, button { font: inherit; color: var(--ink);
  background: var(--wash); border: 1px solid var(--line); border-radius: 6px;
  padding: 0.25rem 0.5rem; max-width: 100%; }
button { cursor: pointer; margin-top: 1rem; }
[hidden] { display: none !important; }
details { border-bottom: 1px solid var(--line); padding: 0.5rem 0; }
summary { cursor: pointer; font-weight: 500; }
pre { overflow-x: auto; background: var(--wash); padding: 1rem; border-radius: 8px;
  font-size: 0.82rem; line-height: 1.45; }
"""
