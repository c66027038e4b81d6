export const renderReport = async (_run: string): Promise<string> => '';
