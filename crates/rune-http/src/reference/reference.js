// Shows the document of the listener that this page comes from. Nothing is asked of anybody else, and credentials
// are forgotten with the page.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  validatorUrl: null,
  onComplete() {
    document.title = `${document.querySelector("#reference .title")?.firstChild?.textContent ?? "Rune"} API reference`;
  },
});
