// A page that draws fsban's dashboard with Grafana's own components and the answers of a real Prometheus. It knows of
// Grafana what this dashboard uses: four kinds of panels, of which Grafana does not publish the state timeline, which is
// drawn here by hand.
import { EventBusSrv, FieldType, createTheme, dateTime, getDisplayProcessor, reduceField, toDataFrame } from '@grafana/data';
import type { DataFrame, Field, TimeRange } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { BigValue, BigValueColorMode, BigValueGraphMode, BigValueJustifyMode, GlobalStyles, PanelChrome, PanelContextProvider, Table, ThemeContext, TimeSeries } from '@grafana/ui';
import { useEffect, useState } from 'react';
import type { ReactNode } from 'react';
import { createRoot } from 'react-dom/client';
import 'uplot/dist/uPlot.min.css';

import fsban from '../fsban.json';

type Answer = { metric: Record<string, string>; values?: [number, string][]; value?: [number, string] };
type AnyPanel = any; // typed.mjs has checked it

const query = new URLSearchParams(location.search);
const from = Number(query.get('from')), to = Number(query.get('to'));
const step = Math.max(1, Math.round((to - from) / 240));
const theme = createTheme({ colors: { mode: query.get('mode') === 'light' ? 'light' : 'dark' } });
const phone = query.get('phone') === '1';
const range: TimeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: dateTime(from * 1000), to: dateTime(to * 1000) } };

// pending is how many panels still wait for their answers; draw.mjs waits for 0.
(window as any).pending = -1;

async function ask(target: any): Promise<Answer[]> {
  const expr = target.expr
    .replaceAll('$instance', query.get('instance') ?? '.*').replaceAll('$profile', '.*')
    .replaceAll('$__rate_interval', `${Math.max(4 * step, 15)}s`).replaceAll('$__range', `${to - from}s`);
  const values = new URLSearchParams({ query: expr });
  if (target.instant) {
    values.set('time', String(to));
  } else {
    values.set('start', String(from)); values.set('end', String(to)); values.set('step', String(step));
  }
  const response = await fetch(`/api/v1/${target.instant ? 'query' : 'query_range'}?${values}`);
  const body = await response.json();
  if (body.status !== 'success') {
    throw new Error(`${expr}: ${body.error}`);
  }
  return body.data.result;
}

const legend = (format: string | undefined, metric: Record<string, string>) =>
  format ? format.replace(/{{\s*(\w+)\s*}}/g, (_, name) => metric[name] ?? '') : '';

// frameOf is one series; a point that Prometheus did not answer is a gap.
function frameOf(panel: AnyPanel, target: any, answer: Answer): DataFrame {
  const points = new Map((answer.values ?? [answer.value!]).map(([t, v]) => [t, Number(v)]));
  const times: number[] = [], values: (number | null)[] = [];
  if (target.instant) {
    times.push(to * 1000); values.push([...points.values()][0]);
  } else {
    for (let t = from; t <= to; t += step) {
      const v = points.get(t);
      times.push(t * 1000); values.push(v === undefined || Number.isNaN(v) ? null : v);
    }
  }
  const name = legend(target.legendFormat, answer.metric);
  const frame = toDataFrame({ refId: target.refId, fields: [
    { name: 'Time', type: FieldType.time, values: times, config: {} },
    { name: name || 'Value', type: FieldType.number, values, labels: answer.metric, config: { displayNameFromDS: name } },
  ] });
  configure(panel, frame);
  return frame;
}

// configure does what fieldConfig says, defaults and overrides by name.
function configure(panel: AnyPanel, frame: DataFrame) {
  frame.fields.forEach((field: Field, i: number) => {
    if (field.type === FieldType.time && panel.type !== 'table') {
      field.display = getDisplayProcessor({ field, theme });
      return;
    }
    const config: any = structuredClone(panel.fieldConfig.defaults);
    config.displayNameFromDS = field.config.displayNameFromDS;
    for (const o of panel.fieldConfig.overrides) {
      if (o.matcher.options !== field.name) {
        continue;
      }
      for (const p of o.properties) {
        const path = p.id.split('.');
        const last = path.pop()!;
        let at = config;
        for (const key of path) {
          at = at[key] ??= {};
        }
        at[last] = p.value;
      }
    }
    config.thresholds?.steps?.forEach((s: any) => { s.value ??= -Infinity; });
    field.config = config;
    const numbers = field.values.filter((v: any) => typeof v === 'number');
    const min = Math.min(...numbers), max = Math.max(...numbers);
    field.state = { seriesIndex: i - 1, range: { min, max, delta: max - min } };
    field.display = getDisplayProcessor({ field, theme });
  });
}

function useFrames(panel: AnyPanel): DataFrame[] | undefined {
  const [frames, setFrames] = useState<DataFrame[]>();
  useEffect(() => {
    (async () => {
      const list: DataFrame[] = [];
      for (const target of panel.targets) {
        const answers = await ask(target);
        if (panel.type === 'table') {
          list.push(tableOf(panel, answers));
          continue;
        }
        answers.sort((a, b) => legend(target.legendFormat, a.metric).localeCompare(legend(target.legendFormat, b.metric)));
        list.push(...answers.map((a) => frameOf(panel, target, a)));
      }
      list.forEach((f, i) => { if (f.fields[1]) { f.fields[1].state = { ...f.fields[1].state, seriesIndex: i }; } });
      setFrames(list);
      (window as any).pending--;
    })().catch((err) => { (window as any).failed = `${panel.title}: ${err.message}`; });
  }, []);
  return frames;
}

// tableOf does what the transformation organize does.
function tableOf(panel: AnyPanel, answers: Answer[]): DataFrame {
  const { excludeByName = {}, indexByName = {}, renameByName = {} } = panel.transformations[0].options;
  const columns = Object.keys(indexByName).filter((c) => !excludeByName[c]).sort((a, b) => indexByName[a] - indexByName[b]);
  const frame = toDataFrame({ fields: columns.map((c) => ({
    name: renameByName[c] ?? c, type: c === 'Value' ? FieldType.number : FieldType.string, config: {},
    values: answers.map((r) => (c === 'Value' ? Number(r.value![1]) : r.metric[c] ?? '')),
  })) });
  configure(panel, frame);
  return frame;
}

const empty = (panel: AnyPanel) => (
  <div style={{ display: 'flex', alignItems: 'center', justifyContent: 'center', height: '100%', color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>
);

function Stat({ panel, frames, width, height }: { panel: AnyPanel; frames: DataFrame[]; width: number; height: number }) {
  const values = frames.map((f) => f.fields[1]).filter((f) => f.values.some((v: any) => v !== null && !Number.isNaN(v)));
  const shown = values.map((field) => {
    const last = reduceField({ field, reducers: ['lastNotNull'] }).lastNotNull;
    const display = field.display!(last);
    return { field, value: { ...display, title: undefined, text: panel.options.textMode === 'name' ? field.name : display.text, suffix: panel.options.textMode === 'name' ? '' : display.suffix } };
  });
  if (shown.length === 0) {
    shown.push({ field: undefined as any, value: { text: panel.fieldConfig.defaults.noValue, numeric: NaN, color: theme.colors.text.primary } as any });
  }
  return (
    <div style={{ display: 'flex' }}>
      {shown.map(({ field, value }, i) => (
        <BigValue key={i} theme={theme} width={width / shown.length} height={height} value={value}
          colorMode={panel.options.colorMode === 'background' ? BigValueColorMode.Background : BigValueColorMode.Value}
          graphMode={panel.options.graphMode === 'area' && field ? BigValueGraphMode.Area : BigValueGraphMode.None}
          justifyMode={BigValueJustifyMode.Auto}
          sparkline={panel.options.graphMode === 'area' && field ? { y: field, x: frames[0].fields[0] } as any : undefined} />
      ))}
    </div>
  );
}

// States is Grafana's state timeline, drawn by hand: a line for each series, a bar for each value.
function States({ frames, width, height }: { frames: DataFrame[]; width: number; height: number }) {
  const left = Math.min(width * 0.35, 10 + 6.6 * Math.max(...frames.map((f) => f.fields[1].name.length)));
  const row = (height - 20) / frames.length, span = to - from;
  return (
    <svg width={width} height={height} fontFamily={theme.typography.fontFamily} fontSize={12}>
      {frames.map((f, i) => {
        const [time, value] = f.fields;
        const bars: { at: number; until: number; v: number }[] = [];
        value.values.forEach((v: any, n: number) => {
          const at = time.values[n] / 1000, last = bars.at(-1);
          if (v === null) { return; }
          if (last && last.v === v && last.until >= at) { last.until = at + step; } else { bars.push({ at, until: at + step, v }); }
        });
        const x = (t: number) => left + (Math.min(t, to) - from) / span * (width - left - 8);
        return (
          <g key={i}>
            <text x={left - 8} y={(i + 0.5) * row} textAnchor="end" dominantBaseline="central" fill={theme.colors.text.primary}>{value.name}</text>
            {bars.map((b, n) => {
              const d = value.display!(b.v), w = x(b.until) - x(b.at);
              return (
                <g key={n}>
                  <rect x={x(b.at)} y={i * row + row * 0.08} width={w} height={row * 0.84} fill={d.color} fillOpacity={0.7} />
                  {w > 60 && <text x={x(b.at) + 6} y={(i + 0.5) * row} dominantBaseline="central" fill={theme.colors.getContrastText(d.color!)}>{d.text}</text>}
                </g>
              );
            })}
          </g>
        );
      })}
      {[0, 1, 2, 3, 4].map((n) => {
        const t = from + span * n / 4;
        return <text key={n} x={left + (width - left - 8) * n / 4} y={height - 4} textAnchor={n === 0 ? 'start' : n === 4 ? 'end' : 'middle'} fill={theme.colors.text.secondary}>{new Date(t * 1000).toISOString().slice(11, 16)}</text>;
      })}
    </svg>
  );
}

function Content({ panel, width, height }: { panel: AnyPanel; width: number; height: number }): ReactNode {
  const frames = useFrames(panel);
  if (!frames) {
    return null;
  }
  const filled = frames.filter((f) => f.length > 0 && (panel.type === 'table' || f.fields[1].values.some((v: any) => v !== null)));
  if (panel.type === 'stat') {
    return <Stat panel={panel} frames={filled} width={width} height={height} />;
  }
  if (filled.length === 0) {
    return empty(panel);
  }
  if (panel.type === 'state-timeline') {
    return <States frames={filled} width={width} height={height} />;
  }
  if (panel.type === 'table') {
    return <Table data={filled[0]} width={width} height={height} />;
  }
  return <TimeSeries frames={filled} timeRange={range} timeZone="utc" width={width} height={height} legend={panel.options.legend} options={panel.options} />;
}

const unit = 38, gap = 8;

function Board() {
  const width = phone ? 412 : query.get('rows') !== 'first' ? 1400 : 1600;
  const begins = (title: string) => (fsban.panels as AnyPanel[]).find((p) => p.type === 'row' && p.title === title)?.gridPos.y ?? Infinity;
  const [top, end] = { first: [0, begins('Attacks')], upper: [begins('Attacks'), begins('Kernel')], lower: [begins('Kernel'), Infinity] }[query.get('rows')!]!;
  const shown = (fsban.panels as AnyPanel[]).filter((p) => p.gridPos.y >= top && p.gridPos.y < end);
  (window as any).pending = shown.filter((p) => p.type !== 'row').length;
  const column = (width - 2 * gap) / 24;
  const place = (p: AnyPanel, i: number): React.CSSProperties => phone
    ? { width: width - 2 * gap, height: p.type === 'row' ? 30 : p.gridPos.h * unit - gap, marginBottom: gap }
    : { position: 'absolute', left: gap + p.gridPos.x * column, top: gap + (p.gridPos.y - top) * unit, width: p.gridPos.w * column - gap, height: p.gridPos.h * unit - gap };
  const height = Math.max(...shown.map((p) => p.gridPos.y + p.gridPos.h)) - top;
  return (
    <div id="board" style={{ position: 'relative', width, height: phone ? undefined : height * unit + gap, padding: phone ? gap : 0, background: theme.colors.background.canvas }}>
      {shown.map((p, i) => {
        const style = place(p, i), w = style.width as number, h = style.height as number;
        return (
          <div key={p.id} style={style}>
            {p.type === 'row'
              ? <div style={{ fontSize: 18, lineHeight: `${h}px`, color: theme.colors.text.primary }}>{p.collapsed ? '›' : '⌄'} {p.title}{p.collapsed && <span style={{ color: theme.colors.text.secondary, fontSize: 14 }}> ({p.panels.length} panels)</span>}</div>
              : <PanelChrome width={w} height={h} title={p.title} description={p.description}>{(iw, ih) => <Content panel={p} width={iw} height={ih} />}</PanelChrome>}
          </div>
        );
      })}
    </div>
  );
}

await initPluginTranslations('fsban-pictures');
createRoot(document.getElementById('root')!).render(
  <ThemeContext.Provider value={theme}>
    <PanelContextProvider value={{ eventsScope: 'global', eventBus: new EventBusSrv() } as any}>
      <GlobalStyles />
      <Board />
    </PanelContextProvider>
  </ThemeContext.Provider>,
);
