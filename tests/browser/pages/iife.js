// The specs know the class by one name, whichever build the page loaded.
window.DatasoleClient = Datasole.DatasoleClient;
