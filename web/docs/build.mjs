// Puts what is served at /docs into dist/: our page, and of Swagger UI what it needs.
import { cpSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");
rmSync(dist, { recursive: true, force: true });
mkdirSync(dist);
for (const name of ["index.html", "page.css", "start.js"]) {
  cpSync(join(here, "page", name), join(dist, name));
}
for (const name of ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt"]) {
  cpSync(join(here, "node_modules/swagger-ui-dist", name), join(dist, name));
}
