// Writes fsban.json as TypeScript, each part with the type that Grafana's schema has for it, so that tsc finds what Grafana
// would not understand.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';

const schemas = {
  stat: ['stat', 'StatPanelCfg'],
  timeseries: ['timeseries', 'TimeSeriesPanelCfg'],
  table: ['table', 'TablePanelCfg'],
  'state-timeline': ['statetimeline', 'StateTimelinePanelCfg'],
};
const dashboard = JSON.parse(readFileSync('../fsban.json', 'utf8'));
const panels = dashboard.panels.flatMap((p) => (p.type === 'row' ? p.panels : [p]));
const out = [
  `import type { Dashboard, Panel } from '@grafana/schema';`,
  ...Object.entries(schemas).map(([kind, [dir, file]]) => `import type * as ${dir} from '@grafana/schema/dist/esm/raw/composable/${dir}/panelcfg/x/${file}_types.gen';`),
  '// An enum of strings is not what JSON has; its values are.',
  'type Plain<T> = T extends string ? `${T}` : T extends readonly (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;',
  `export const dashboard: Plain<Dashboard> = ${JSON.stringify(dashboard)};`,
];
for (const p of panels) {
  if (!schemas[p.type]) {
    throw new Error(`${p.title}: nobody here draws a ${p.type}`);
  }
  const dir = schemas[p.type][0];
  out.push(`export const panel${p.id}: Plain<Panel> = ${JSON.stringify(p)};`);
  out.push(`export const options${p.id}: Partial<Plain<${dir}.Options>> = ${JSON.stringify(p.options)};`);
  const custom = p.fieldConfig.defaults.custom;
  if (custom && dir !== 'stat') {
    out.push(`export const custom${p.id}: Partial<Plain<${dir}.FieldConfig>> = ${JSON.stringify(custom)};`);
  }
}
mkdirSync('build', { recursive: true });
writeFileSync('build/typed.ts', out.join('\n') + '\n');
